// One phone: a screen that shows what the server says is true, and the buttons to change
// it. All talking to the server is in client.js.

import { ApiError, BondMate } from "./client.js";

const TEXTS = {
  "request.sent": "Request sent",
  "request.received": "Request received",
  "request.accepted": "Request accepted",
  "request.declined": "Request declined",
  "request.cancelled": "Request taken back",
  "request.expired": "Request expired",
  "request.superseded": "Request closed: no slot left",
  "partnership.started": "Partnership started",
  "partnership.ended": "Partnership ended",
  "partnership.archived": "Partnership archived",
  "slot.vacated": "A slot is free",
  "command.rejected": "Rejected",
  "inbox.read": "Read on another device",
  withdrawn: "Withdrawn",
};

export class Phone extends EventTarget {
  #root;
  #client = new BondMate();
  #view = { partner: null, incoming: [], outgoing: [], restorable: [] };
  #dirty = false;
  #loading = false;
  #busy = false;
  #error = "";
  #onlineSince = Infinity;
  #fcmToken = `demo-${crypto.randomUUID()}`;
  #shown = new Set();

  constructor(root, name) {
    super();
    this.name = name;
    this.#root = root;
    root.append(document.querySelector("#phone").content.cloneNode(true));
    this.#find(".online").addEventListener("change", (e) =>
      e.target.checked ? this.#client.connect() : this.#client.disconnect());
    this.#client.addEventListener("state", (e) => this.#showState(e.detail));
    this.#client.addEventListener("event", (e) => this.#onEvent(e.detail));
    this.#client.addEventListener("resync", () => this.#refresh());
  }

  get userId() {
    return this.#client.user.id;
  }

  /** Registers a new person, a push address for the phone, and goes online. */
  async start() {
    const email = `${this.name.toLowerCase()}-${crypto.randomUUID().slice(0, 8)}@example.com`;
    await this.#client.register(email, crypto.randomUUID(), this.name);
    this.profile = await this.#client.get("/api/profile");
    await this.#client.call("POST", "/api/devices", { kind: "fcm", token: this.#fcmToken, platform: "web" });
    this.#client.connect();
    await this.#refresh();
    setInterval(() => this.#pollPushes(), 1000);
  }

  // --- what the person does ---------------------------------------------------------

  invite(partnerCode, message) {
    return this.#act("POST", "/api/enhanced-partners/request", { partnerCode, ...(message ? { message } : {}) });
  }
  accept(id) {
    return this.#act("PUT", `/api/enhanced-partners/request/${id}/accept`);
  }
  decline(id) {
    return this.#act("PUT", `/api/enhanced-partners/request/${id}/reject`);
  }
  cancel(id) {
    return this.#act("DELETE", `/api/enhanced-partners/request/${id}`);
  }
  leave() {
    return this.#act("POST", "/api/enhanced-partners/remove", { partnershipId: this.#view.partner.partnershipId });
  }

  async #act(method, path, body) {
    this.#busy = true;
    this.#error = "";
    this.#draw();
    const offline = this.#onlineSince === Infinity; // the command waits: there is nothing to measure
    this.dispatchEvent(new CustomEvent("acted", { detail: offline ? Infinity : performance.now() }));
    try {
      await this.#client.command(method, path, body);
    } catch (err) {
      this.#error = err instanceof ApiError ? `${err.code}: ${err.message}` : String(err);
    } finally {
      this.#busy = false;
      await this.#refresh();
    }
  }

  // --- what the server says ------------------------------------------------------------

  #onEvent(frame) {
    const { actor, ms } = this.dispatchDelivered(frame);
    const row = element("li", { class: actor === this.userId ? "own" : "" },
      element("time", {}, String(frame.seq)),
      element("span", {}, TEXTS[frame.type] ?? frame.type,
        frame.data.restored ? element("em", {}, "restored") : "",
        frame.data.code ? element("em", {}, frame.data.code) : ""),
      element("b", {}, ms === null ? "" : ms === undefined ? "caught up" : `${ms.toFixed(1)} ms`));
    row.dataset.type = frame.type;
    const list = this.#find(".events");
    list.prepend(row);
    while (list.children.length > 30) list.lastChild.remove();
    this.#find(".seq").textContent = frame.seq;
    this.#refresh();
  }

  /**
   * Tells the page that an event arrived; the page answers in ms how long it took: null
   * when that is not known, undefined when the phone was offline meanwhile.
   */
  dispatchDelivered(frame) {
    const actor = frame.data.byUserId ?? frame.data.fromUserId ?? null;
    const detail = { frame, actor, at: performance.now(), onlineSince: this.#onlineSince, ms: null };
    this.dispatchEvent(new CustomEvent("delivered", { detail }));
    return detail;
  }

  // Reads are coalesced: however many events come at once, one load runs and one follows.
  async #refresh() {
    this.#dirty = true;
    if (this.#loading) return;
    this.#loading = true;
    try {
      while (this.#dirty) {
        this.#dirty = false;
        this.#view = await this.#load();
        this.#draw();
      }
    } catch (err) {
      console.warn("refresh", err);
    } finally {
      this.#loading = false;
    }
  }

  async #load() {
    const base = "/api/enhanced-partners";
    const [current, incoming, outgoing, restorable] = await Promise.all([
      this.#client.get(`${base}/current`),
      this.#client.get(`${base}/requests?direction=incoming&status=pending`),
      this.#client.get(`${base}/requests?direction=outgoing&status=pending`),
      this.#client.get(`${base}/restorable`),
    ]);
    return {
      partner: current.partner ? current : null,
      incoming: incoming.requests,
      outgoing: outgoing.requests,
      restorable: restorable.restorable,
    };
  }

  // The push stand-in keeps what a phone's push service would have shown.
  async #pollPushes() {
    if (document.visibilityState !== "visible") return;
    const response = await fetch(`pushes?token=${encodeURIComponent(this.#fcmToken)}`).catch(() => null);
    if (!response?.ok) return;
    for (const push of (await response.json()).pushes) {
      const { message } = push;
      const id = message.data?.eventId ?? push.time;
      if (this.#shown.has(id)) continue;
      this.#shown.add(id);
      const banner = element("div", { class: "banner" },
        element("b", {}, message.notification?.title ?? "Bond Mate"),
        element("span", {}, message.notification?.body ?? ""));
      this.#find(".banners").prepend(banner);
      setTimeout(() => banner.remove(), 8000);
    }
  }

  // --- drawing ---------------------------------------------------------------------------

  #showState(state) {
    this.#find(".dot").dataset.state = state;
    this.#find(".state").textContent = state;
    this.#root.dataset.state = state;
    this.#onlineSince = state === "online" ? performance.now() : Infinity;
    if (state === "online") this.#refresh();
  }

  #draw() {
    const typed = this.#find(".screen input[name=code]")?.value ?? "";
    const focused = document.activeElement?.name === "code" && this.#root.contains(document.activeElement);
    const screen = this.#find(".screen");
    screen.replaceChildren(this.#head(), ...this.#body(), this.#error ? element("p", { class: "error" }, this.#error) : "");
    const code = this.#find(".screen input[name=code]");
    if (code) {
      code.value = typed;
      if (focused) code.focus();
    }
    screen.toggleAttribute("aria-busy", this.#busy);
  }

  #head() {
    return element("div", { class: "me" },
      element("span", { class: "avatar" }, this.name[0]),
      element("div", {},
        element("strong", {}, this.name),
        element("code", { class: "code", title: "partner code" }, this.profile.partnerCode)));
  }

  #body() {
    const { partner, incoming, outgoing, restorable } = this.#view;
    if (partner) {
      return [element("div", { class: "card bond" },
        element("div", { class: "heart" }, "♥"),
        element("p", {}, "Together with ", element("strong", { class: "partner" }, partner.partner.displayName)),
        element("p", { class: "soft" }, `since ${new Date(partner.startedAt).toLocaleTimeString()}`,
          partner.restored ? element("em", { class: "restored" }, "restored") : ""),
        this.#button("Leave", "leave quietish", () => this.leave()))];
    }
    const cards = [
      ...incoming.map((r) => element("div", { class: "card" },
        element("p", {}, element("strong", {}, r.user.displayName), " asks to be your partner"),
        r.message ? element("blockquote", {}, r.message) : "",
        element("div", { class: "row" },
          this.#button("Accept", "accept primary", () => this.accept(r.id)),
          this.#button("Decline", "decline quietish", () => this.decline(r.id))))),
      ...outgoing.map((r) => element("div", { class: "card" },
        element("p", {}, "Waiting for ", element("strong", {}, r.user.displayName)),
        this.#button("Take back", "cancel quietish", () => this.cancel(r.id)))),
    ];
    if (outgoing.length || incoming.length) return cards;
    const form = element("form", { class: "card invite" },
      restorable.length
        ? element("p", { class: "soft" }, `You can restore what you had with ${restorable[0].user.displayName}: invite again.`)
        : element("p", { class: "soft" }, "Enter your partner's code."),
      element("input", { name: "code", placeholder: "partner code", autocomplete: "off", maxlength: "16", required: "" }),
      element("button", { class: "primary send" }, restorable.length ? "Invite again" : "Send request"));
    form.addEventListener("submit", (e) => {
      e.preventDefault();
      this.invite(new FormData(form).get("code").trim(), "Be mine?");
    });
    return [form];
  }

  #button(label, classes, act) {
    const button = element("button", { class: classes, type: "button" }, label);
    button.disabled = this.#busy;
    button.addEventListener("click", act);
    return button;
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }
}

/** A DOM element; children that are strings become text, never markup. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
