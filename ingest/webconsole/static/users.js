// One user: who it is, and what an operator can change.
import { get, post, put } from "./api.js";
import { act, badge, confirmed, facts, failing, h, toast, when } from "./dom.js";

const section = document.getElementById("user");
const shown = section.querySelector("[data-list]");
const field = document.getElementById("user-id");

async function lookUp(id) {
  show(await get(`/api/ops/users/${encodeURIComponent(id)}`));
}

function show(u) {
  const path = `/api/ops/users/${u.id}`;
  const done = (text) => (now) => {
    show(now);
    toast(text);
  };
  const who = h("span", null, h("b", null, u.displayName), u.email ? ` · ${u.email}` : "");
  const suspend = u.status === "suspended"
    ? act("Unsuspend", () => confirmed({ title: "Let the user log in again?", text: who, verb: "Unsuspend", run: () => post(`${path}/unsuspend`), done: done("The user can log in again.") }))
    : act("Suspend", () => confirmed({
      title: "Suspend the user?", text: who, verb: "Suspend", danger: true,
      form: h("p", { class: "soft" }, "Sessions end and sockets close, pushes stop, and nobody can log in. Partnerships stay; the partner can leave."),
      run: () => post(`${path}/suspend`), done: done("The user is suspended."),
    }), "danger");
  const other = u.tier === "premium" ? "free" : "premium";
  const tier = act(`Change tier to ${other}`, () => confirmed({
    title: `Change the tier to ${other}?`, text: who, form: h("p", { class: "soft" }, "The slots follow, unless an operator has set their number; occupied ones stay."),
    verb: "Change", run: () => put(`${path}/tier`, { tier: other }), done: done(`The tier is ${other}.`),
  }));
  const slots = act("Set slots", () => {
    const total = h("input", { id: "total", type: "number", min: "1", max: "50", value: u.slotsSet ?? "", placeholder: "what the tier brings" });
    confirmed({
      title: "Set how many slots the user has", text: who, verb: "Set",
      form: h("div", null, h("label", { for: "total" }, "Slots; empty for what the tier brings"), h("br"), total),
      run: () => put(`${path}/slots`, { total: total.value === "" ? null : Number(total.value) }), done: done("The slots are set."),
    });
  });
  shown.replaceChildren(
    facts([
      ["Name", u.displayName], ["E-mail", u.email], ["Id", h("code", null, u.id)],
      ["State", badge(u.status, u.status === "active" ? "good" : "bad")], ["Role", badge(u.role)], ["Tier", badge(u.tier)],
      ["Slots", `${u.slots.total}, ${u.slots.occupied} occupied${u.slotsSet ? " (set by an operator)" : ""}`], ["Since", when(u.createdAt)],
      ["Sessions · devices", `${u.sessions} · ${u.devices}`],
      ["Reports about them", `${u.reports.about}, ${u.reports.open} open`], ["Reports by them", String(u.reports.by)],
    ]),
    h("div", { class: "strip" }, suspend, tier, slots));
}

document.getElementById("find").addEventListener("submit", failing((event) => {
  event.preventDefault();
  return lookUp(field.value.trim());
}));
document.addEventListener("look-up", failing(async (event) => {
  document.getElementById("dialog").close();
  field.value = event.detail;
  await lookUp(event.detail);
  section.scrollIntoView();
  field.focus({ preventScroll: true });
}));
