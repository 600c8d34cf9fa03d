// Parked pairs: what waits, and the retry or drop that settles it.
import { get, post } from "./api.js";
import { act, badge, checkbox, confirmed, empty, facts, failing, h, look, opened, pair, person, table, toast, when } from "./dom.js";

const list = document.querySelector("#parked [data-list]");

// load returns how many pairs there are, and whether there are more.
export async function load() {
  const { pairs } = await get("/api/ops/parked");
  list.replaceChildren(pairs.length === 0 ? empty("No pair is parked.") : table("Parked pairs",
    ["Pair", "Waiting", "Since (UTC)", "Reason", "Error", ""],
    pairs.map((p) => [
      pair(p.pair), h("span", { class: "num" }, String(p.commands)), when(p.since), badge(p.reason, "warn"),
      h("span", { class: "error" }, p.error),
      h("div", { class: "acts" }, look("Details", failing(() => show(p))), act("Retry", () => retry(p)), act("Drop", () => drop(p))),
    ])));
  return { count: pairs.length, more: pairs.length >= 100 };
}

async function show(p) {
  const detail = await get(`/api/ops/parked/${p.first}`);
  opened("Parked pair", h("div", { class: "sheet-body" },
    pair(detail.pair),
    h("ol", { class: "steps" }, detail.commands.map((c) => h("li", null,
      h("b", null, c.shape.type ?? "unreadable"), " ", badge(c.reason, c.reason === "behind" ? "" : "warn"), " ", h("code", null, c.id),
      h("p", { class: "soft" }, "parked ", when(c.parkedAt), ` · partition ${c.partition}, offset ${c.offset} · ${c.shape.bytes} bytes`,
        c.shape.issuer ? [" · by ", person(c.shape.issuer)] : []),
      c.error ? h("p", null, c.error) : [],
      h("ul", null, c.shape.fields.map((f) => h("li", null, f))),
      c.shape.readable === "yes" ? [] : h("p", { class: "soft" }, `Today's decoder says: ${c.shape.readable}`)))),
    detail.actions.length === 0 ? [] : [
      h("h3", null, "Asked for of late"),
      h("ul", { class: "steps" }, detail.actions.map((a) => h("li", null,
        h("b", null, a.action), a.dryRun ? " (dry run)" : "", " by ", a.requestedBy, ", ", when(a.requestedAt), ": ", sum(a)))),
    ]));
}

// sum says in a sentence what became of an action.
function sum(a) {
  if (!a.executedAt) return "not carried out yet; no processor owns the partition, or it is busy.";
  const words = { done: "done", stopped: "stopped", nothing_parked: "nothing was parked any more" };
  return `${words[a.outcome] ?? a.outcome}: ${a.settled} settled, ${a.waiting} waiting.${a.error ? ` ${a.error}` : ""}`;
}

// report shows what a dry run found.
function report(a) {
  const steps = a.report?.steps ?? [];
  const found = steps.length === 0 ? sum(a) : a.outcome === "stopped" ? `This would happen, and then it stops: ${a.error}` : "This would happen:";
  return h("div", { class: "sheet-body" },
    h("p", { class: "hint" }, `Nothing was changed. ${found}`),
    h("ol", { class: "steps" }, steps.map((s) => h("li", null,
      h("b", null, s.type || "unreadable"), " ", h("code", null, s.commandId), ": ", s.outcome, s.error ? ` – ${s.error}` : "",
      h("ul", null,
        s.changes.flatMap((c) => [
          c.before ? h("li", { class: "minus" }, `- ${c.what}: ${c.before}`) : undefined,
          c.after ? h("li", { class: "plus" }, `+ ${c.what}: ${c.after}`) : undefined,
        ]),
        s.events.map((e) => h("li", null, `event ${e}`)),
        s.followUps.map((f) => h("li", null, `follow-up ${f}`)))))),
    a.report?.more ? h("p", { class: "soft" }, `${a.report.more} more wait behind these.`) : []);
}

const done = (what) => (a) => {
  toast(`${what}: ${sum(a)}`, a.outcome === "stopped" || !a.executedAt);
  document.dispatchEvent(new Event("changed"));
};

function retry(p) {
  confirmed({
    title: "Retry what is parked?",
    text: `The ${p.commands} parked command(s) are applied in order, until one fails again.`,
    form: facts([["Pair", pair(p.pair)], ["First", h("code", null, p.first)], ["Error", p.error]]),
    verb: "Retry",
    attempt: async () => report(await post(`/api/ops/parked/${p.first}/retry`, { dryRun: true })),
    run: () => post(`/api/ops/parked/${p.first}/retry`, {}),
    done: done("Retry"),
  });
}

function drop(p) {
  const whole = checkbox(`All ${p.commands} that wait on the pair, not the first alone`);
  confirmed({
    title: "Drop the parked command?",
    text: "It is rejected with the code “dropped”, which its issuer is told. What waits behind it goes on.",
    form: h("div", null, facts([["Pair", pair(p.pair)], ["Command", h("code", null, p.first)], ["Error", p.error]]), p.commands > 1 ? whole.field : []),
    verb: "Drop", danger: true,
    attempt: async () => report(await post(`/api/ops/parked/${p.first}/drop`, { dryRun: true, wholePair: whole.value })),
    run: () => post(`/api/ops/parked/${p.first}/drop`, { wholePair: whole.value }),
    done: done("Drop"),
  });
}
