// Reports of users about users, and the decisions on them.
import { get, post } from "./api.js";
import { act, badge, choice, confirmed, empty, facts, failing, h, look, opened, person, table, toast, when } from "./dom.js";

const list = document.querySelector("#reports [data-list]");
const status = document.getElementById("report-status");

const address = (wanted, cursor) => `/api/ops/reports?${new URLSearchParams({ limit: "100", ...(wanted && { status: wanted }), ...(cursor && { cursor }) })}`;

const someone = (p) => [person(p.id, p.displayName), p.status === "active" ? [] : [" ", badge(p.status, "bad")]].flat();

// load fills the table, and returns how many are open, whatever is shown.
export async function load() {
  const [shown, open] = await Promise.all([get(address(status.value)), get(address("open"))]);
  list.replaceChildren();
  if (shown.reports.length === 0) list.replaceChildren(empty(status.value === "open" ? "No report is open." : "There is no report."));
  else add(shown);
  return { count: open.reports.length, more: Boolean(open.nextCursor) };
}

function add({ reports, nextCursor }) {
  list.append(table("Reports",
    ["Since (UTC)", "About", "By", "Reason", "Others", "State", ""],
    reports.map((r) => [
      when(r.createdAt), someone(r.target), someone(r.reporter), r.reason || "(erased)", h("span", { class: "num" }, String(r.others)),
      r.status === "open" ? badge("open", "warn") : badge(r.resolution, r.resolution === "suspended" ? "bad" : "good"),
      h("div", { class: "acts" }, look("Details", failing(() => show(r.id))), r.status === "open" ? act("Resolve", failing(() => resolve(r.id))) : []),
    ])));
  if (!nextCursor) return;
  const more = h("div", { class: "more" }, look("More", failing(async () => {
    const next = await get(address(status.value, nextCursor));
    more.remove();
    add(next);
  })));
  list.append(more);
}

const described = (r) => h("div", null,
  facts([
    ["About", h("span", null, someone(r.target))], ["By", h("span", null, someone(r.reporter))], ["Since", when(r.createdAt)],
    ["Other reports about the same user", String(r.others)], ["Reason", r.reason || "(erased)"],
    ["Decision", r.resolution && h("span", null, badge(r.resolution), " ", when(r.resolvedAt))], ["Decided by", r.resolvedBy && person(r.resolvedBy)],
  ]),
  r.detail ? h("p", { class: "said" }, r.detail) : [],
  r.note ? h("p", null, h("b", null, "Note: "), r.note) : []);

async function show(id) {
  opened("Report", h("div", { class: "sheet-body" }, described(await get(`/api/ops/reports/${id}`))));
}

async function resolve(id) {
  const r = await get(`/api/ops/reports/${id}`);
  const verdict = choice("Decision", [
    ["dismissed", "Dismiss: nothing follows"], ["warned", "Warned: somebody has spoken to the user; nothing is sent"],
    ["suspended", "Suspend the user: sessions end, nobody logs in"],
  ]);
  const note = h("textarea", { id: "note", maxlength: "2000" });
  confirmed({
    title: "Decide on the report",
    text: "A decision is final.",
    form: h("div", { class: "sheet-body" }, described(r), verdict.field, h("label", { for: "note" }, "Note for other operators"), note),
    verb: "Decide", danger: true,
    run: () => post(`/api/ops/reports/${id}/resolve`, { resolution: verdict.value, ...(note.value.trim() && { note: note.value.trim() }) }),
    done: (now) => {
      toast(`The report is resolved: ${now.resolution}.`);
      document.dispatchEvent(new Event("changed"));
    },
  });
}

status.addEventListener("change", failing(load));
