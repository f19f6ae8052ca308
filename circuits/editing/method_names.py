"""Names of the ways to edit, and of the baselines they are compared with."""

ONE_STAGE = ("ft", "rome", "memit", "pmet", "alphaedit")
TWO_STAGE = ("ifmet", "ace", "ace-query-first", "ace-paper", "ace-released")
METHODS = (*ONE_STAGE, *TWO_STAGE)
"""Names of all presets; a name of `ONE_STAGE` or ``ifmet`` followed by ``+`` is that method with
the two-hop prompts and preserved questions that ``ace`` sees."""

INFORMED = tuple(f"{name}+" for name in (*ONE_STAGE, "ifmet"))
BASELINES = ("none", "told", "ike")
"""The unedited model, the edit in the prompt, and that behind demonstrations."""
