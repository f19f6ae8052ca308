// Draws the tokens of a text into `root`; `given` comes from circuits/affect/token_projections.py. All that a
// user wrote is set as text, never as markup.
(root, given) => {
  "use strict";
  const make = (tag, look, ...children) => {
    const one = document.createElement(tag);
    if (look) one.className = look;
    one.append(...children);
    return one;
  };
  const values = given.runs.flatMap((run) => run.tokens.flatMap(([, own]) => own)).filter((v) => v !== null);
  const most = values.reduce((found, v) => Math.max(found, Math.abs(v)), 1e-9);
  const choice = document.createElement("select");
  given.emotions.forEach((name, number) => choice.append(new Option(name, number)));
  const text = make("div", "text");
  const written = (token) => token.replaceAll("\n", "⏎\n");

  const draw = () => {
    const chosen = Number(choice.value);
    text.replaceChildren(
      ...given.runs.map((run) => {
        const spans = run.tokens.map(([token, own]) => {
          const span = make("span", "token", written(token));
          const value = own[chosen];
          if (value !== null) {
            const part = Math.min(1, Math.abs(value) / most);
            span.style.backgroundColor = `rgb(${value > 0 ? "59 125 216" : "214 69 61"} / ${(0.75 * part).toFixed(3)})`;
            span.title = `${given.emotions[chosen]} ${value.toFixed(2)}`;
          }
          return span;
        });
        const of = run.speaker === given.template ? "between" : "turn";
        return make("div", of, ...(of === "turn" ? [make("b", "speaker", run.speaker)] : []), ...spans);
      }),
    );
  };
  choice.addEventListener("change", draw);
  const scale = make("p", "scale", `Full colour: ${most.toFixed(1)} standard deviations.`);
  root.replaceChildren(make("label", "", "Emotion ", choice), scale, text);
  draw();
}
