// Two phones on one page. Both share this page's clock, so the time from one phone's POST
// to the event on the other phone's socket can be measured without any clock skew.

import { Phone } from "./phone.js";

const left = new Phone(document.querySelector("#left"), "Ada");
const right = new Phone(document.querySelector("#right"), "Ben");
const acted = new Map(); // user id → when their last POST started
const measured = [];

for (const phone of [left, right]) {
  phone.addEventListener("acted", (e) => acted.set(phone.userId, e.detail));
  phone.addEventListener("delivered", (e) => {
    const { actor, at, onlineSince } = e.detail;
    const since = acted.get(actor) ?? Infinity;
    if (since === Infinity) return; // the command waited for its phone's network
    const missed = onlineSince > since; // not the pipe's time but the network's
    e.detail.ms = missed ? undefined : at - since;
    if (!missed && actor !== phone.userId) show(e.detail.ms);
  });
}

function show(ms) {
  measured.push(ms);
  const sorted = measured.toSorted((a, b) => a - b);
  const put = (id, text) => (document.getElementById(id).textContent = text);
  put("last", ms.toFixed(1));
  put("median", `${sorted[Math.floor(sorted.length / 2)].toFixed(1)} ms`);
  put("best", `${sorted[0].toFixed(1)} ms`);
  put("count", measured.length);
  const hops = document.querySelector(".hops");
  hops.classList.remove("run");
  void hops.offsetWidth; // restarts the animation
  hops.classList.add("run");
}

await Promise.all([left.start(), right.start()]);
document.body.dataset.ready = "true";
