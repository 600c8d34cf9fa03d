// Dead letters, and their replay.
import { get, post } from "./api.js";
import { act, badge, checkbox, confirmed, empty, facts, failing, h, look, opened, table, toast, when } from "./dom.js";

const list = document.querySelector("#letters [data-list]");

const place = (l) => h("code", null, `${l.topic}/${l.partition}/${l.offset}`);

export async function load() {
  const { deadLetters } = await get("/api/ops/dead-letters");
  list.replaceChildren(deadLetters.length === 0 ? empty("There is no dead letter.") : table("Dead letters",
    ["Place", "Since (UTC)", "Holds", "Error", "State", ""],
    deadLetters.map((l) => [
      place(l), when(l.createdAt), l.shape.type ?? `${l.shape.bytes} bytes`, h("span", { class: "error" }, l.error),
      l.replayedAt ? badge("replayed", "good") : badge("waits", "warn"),
      h("div", { class: "acts" }, look("Details", failing(() => show(l.id))), act("Replay", () => replay(l))),
    ])));
  return { count: deadLetters.filter((l) => !l.replayedAt).length, more: deadLetters.length >= 100 };
}

async function show(id) {
  const l = await get(`/api/ops/dead-letters/${id}`);
  opened("Dead letter", h("div", { class: "sheet-body" },
    facts([
      ["Place", place(l)], ["Id", h("code", null, l.id)], ["Since", when(l.createdAt)], ["Key", h("code", null, l.key)],
      ["Type", l.shape.type], ["Size", `${l.shape.bytes} bytes`], ["Readable today", l.shape.readable],
      ["Replayed", l.replayedAt ? h("span", null, when(l.replayedAt), ` by ${l.replayedBy ?? "?"}`) : "no"], ["Error", l.error],
    ]),
    l.shape.fields.length ? h("ul", { class: "steps" }, h("li", null, h("b", null, "Fields"), h("ul", null, l.shape.fields.map((f) => h("li", null, f))))) : [],
    l.headers.length ? h("ul", { class: "steps" }, h("li", null, h("b", null, "Headers"), h("ul", null, l.headers.map((f) => h("li", null, f))))) : []));
}

function replay(l) {
  const force = checkbox("Also if today's program cannot read it (for a newer one that reads the topic)");
  confirmed({
    title: "Write the dead letter to the commands topic again?",
    text: "It comes behind all that its pair has done meanwhile, and takes effect once, however often it is replayed.",
    form: h("div", null, facts([["Place", place(l)], ["Readable today", l.shape.readable], ["Replayed before", when(l.replayedAt)]]), force.field),
    verb: "Replay",
    run: () => post(`/api/ops/dead-letters/${l.id}/replay`, { force: force.value }),
    done: (to) => {
      toast(`Replayed to ${to.topic}, partition ${to.partition}.`);
      document.dispatchEvent(new Event("changed"));
    },
  });
}
