// The overview, and what loads the tables. Nothing is asked for by a clock: that would keep
// who has gone away signed in.
import { get } from "./api.js";
import { failing, h, toast } from "./dom.js";
import * as letters from "./letters.js";
import * as parked from "./parked.js";
import * as reports from "./reports.js";
import "./users.js";

const tiles = document.getElementById("tiles");
const asOf = document.getElementById("asof");
const refresh = document.getElementById("refresh");

const tile = (name, state, figure, text) =>
  h("dl", { class: "card tile" },
    h("dt", null, h("span", { class: `dot ${state}` }), name),
    h("dd", null, h("span", { class: "figure" }, figure), h("small", null, text)));

const milliseconds = (n) => `${n < 10 ? n.toFixed(1) : Math.round(n)} ms`;

// counted is a tile for a number that should be none.
function counted(name, outcome, text) {
  if (outcome.status === "rejected") return tile(name, "bad", "?", String(outcome.reason));
  const { count, more } = outcome.value;
  return tile(name, count === 0 ? "good" : "warn", `${count}${more ? "+" : ""}`, text);
}

function checked(outcome) {
  if (outcome.status === "rejected") {
    return ["PostgreSQL", "Kafka", "Redis"].map((name) => tile(name, "bad", "?", String(outcome.reason)));
  }
  const { postgres, kafka, redis } = outcome.value.checks;
  const state = (check) => (check.status === "healthy" ? "good" : "bad");
  return [
    tile("PostgreSQL", state(postgres), postgres.connected ? milliseconds(postgres.responseTime) : "away",
      `${postgres.pool.availableConnections} of ${postgres.pool.maxPoolSize} connections free, ${postgres.pool.waitQueueSize} calls wait`),
    tile("Kafka", state(kafka), kafka.connected ? `lag ${kafka.lag ?? "?"}` : "away", `${milliseconds(kafka.responseTime)}, breaker ${kafka.breaker ?? "?"}`),
    tile("Redis", redis.status === "disabled" ? "" : state(redis), { healthy: "up", disabled: "off", unhealthy: "away" }[redis.status] ?? redis.status,
      { healthy: "answers", disabled: "not configured", unhealthy: "does not answer" }[redis.status] ?? ""),
  ];
}

// load asks for everything; what fails leaves the rest alone.
async function load() {
  refresh.disabled = true;
  const [health, waiting, dead, open] = await Promise.allSettled([get("/health/detailed"), parked.load(), letters.load(), reports.load()]);
  tiles.replaceChildren(
    ...checked(health),
    counted("Parked pairs", waiting, "wait for a retry or a drop"),
    counted("Dead letters", dead, "not replayed"),
    counted("Open reports", open, "wait for a decision"));
  const failed = [health, waiting, dead, open].find((o) => o.status === "rejected");
  if (failed) toast(String(failed.reason), true);
  asOf.textContent = `As of ${new Date().toISOString().slice(11, 19)} UTC`;
  document.body.dataset.ready = "true";
  refresh.disabled = false;
}

refresh.addEventListener("click", failing(load));
document.addEventListener("changed", failing(load));
await load();
