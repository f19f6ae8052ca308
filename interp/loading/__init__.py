"""From a name, a Hub id, a folder or a file to a checked model."""
