// Pieces of the page. Text becomes text, never markup: the page's policy forbids the latter.

// h makes an element. Of its properties, those that begin with "on" are listeners, "data" is
// its dataset, the rest are attributes; false and undefined leave one out.
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === false || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export const canAct = document.body.dataset.canAct === "true";

// act is a button for what takes the role admin; others see that there is one.
export const act = (text, onclick, kind = "quiet") =>
  h("button", { class: `small ${kind}`, type: "button", onclick, disabled: !canAct, title: canAct ? undefined : "This takes the role admin." }, text);

export const look = (text, onclick) => h("button", { class: "small quiet", type: "button", onclick }, text);

// when shows a time in UTC, to the second.
export function when(text) {
  if (!text) return "–";
  const iso = new Date(text).toISOString();
  return h("time", { datetime: iso, title: iso }, `${iso.slice(0, 10)} ${iso.slice(11, 19)}`);
}

export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);

const short = (id) => `${id.slice(0, 8)}…`;

// person is a button that looks a user up.
export const person = (id, name) =>
  h("button", { class: "id", type: "button", title: `Look up user ${id}`, "aria-label": `Look up user ${id}`, onclick: () => lookUp(id) }, name ?? short(id));

const lookUp = (id) => document.dispatchEvent(new CustomEvent("look-up", { detail: id }));

export const pair = (key) => h("span", { class: "pair" }, key.split(":").map((id) => person(id)));

// table makes a table of rows, each a list of cells. On a narrow screen rows become cards; the
// roles keep them a table for who does not see it.
export function table(label, columns, rows) {
  const head = columns.map((c) => h("th", { scope: "col", role: "columnheader" }, c || h("span", { "aria-label": "Actions" })));
  return h("table", { role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, rows.map((cells) => h("tr", { role: "row" },
      cells.map((cell, i) => h("td", { role: "cell", class: columns[i] ? false : "do", data: { name: columns[i] } }, h("div", null, cell)))))));
}

export const empty = (text) => h("p", { class: "empty" }, text);

export const facts = (entries) =>
  h("dl", { class: "facts" }, entries.filter(([, value]) => value !== undefined && value !== "").map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));

// toast says in the corner what was done, or why not.
export function toast(text, bad = false) {
  const line = h("p", { class: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), bad ? 15_000 : 6_000);
}

// failing runs something and says what went wrong with it.
export const failing = (run) => async (...args) => {
  try {
    return await run(...args);
  } catch (problem) {
    toast(String(problem), true);
  }
};

// opened shows a dialog and returns it; Escape and Close close it.
export function opened(title, content, ...buttons) {
  const dialog = document.getElementById("dialog");
  const close = h("button", { class: "quiet", type: "button", autofocus: true, onclick: () => dialog.close() }, buttons.length ? "Cancel" : "Close");
  dialog.replaceChildren(h("div", { class: "sheet" }, h("h2", { id: "dialog-title" }, title), content, h("div", { class: "foot" }, close, buttons)));
  if (!dialog.open) dialog.showModal();
  return dialog;
}

// confirmed asks before something is done, and stays open with the reason when it is refused.
// try does it without effect, where that can be; do's answer is said in the corner.
export function confirmed({ title, text, form, verb, danger, attempt, run, done }) {
  const said = h("div", { role: "alert" });
  const busy = (on) => dialog.querySelectorAll("button").forEach((b) => { b.disabled = on; });
  const doing = (job, after) => async () => {
    busy(true);
    said.replaceChildren();
    try {
      after(await job());
    } catch (problem) {
      said.replaceChildren(h("p", { class: "alarm" }, String(problem)));
    } finally {
      busy(false);
    }
  };
  const buttons = [];
  if (attempt) buttons.push(h("button", { class: "quiet", type: "button", id: "dry-run", onclick: doing(attempt, (shown) => said.replaceChildren(shown)) }, "Dry run"));
  buttons.push(h("button", {
    class: danger ? "danger" : "primary", type: "button", id: "confirm",
    onclick: doing(run, (answer) => { dialog.close(); done(answer); }),
  }, verb));
  const dialog = opened(title, h("div", { class: "sheet-body" }, h("p", null, text), form, said), ...buttons);
}

// checkbox and choice are fields of a confirmation, with their values.
export function checkbox(text) {
  const box = h("input", { type: "checkbox" });
  return { field: h("label", { class: "check" }, box, text), get value() { return box.checked; } };
}

export function choice(legend, options) {
  const boxes = options.map(([value, text], i) => [h("input", { type: "radio", name: "choice", value, checked: i === 0 }), text]);
  return {
    field: h("fieldset", null, h("legend", null, legend), boxes.map(([box, text]) => h("label", { class: "check" }, box, text))),
    get value() { return boxes.find(([box]) => box.checked)[0].value; },
  };
}
