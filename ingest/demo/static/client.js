// The reference client of the Bond Mate API, for browsers. It shows what any client must
// get right, and nothing else:
//
//   - a command is sent until it has an answer, always with the same Idempotency-Key, so
//     a lost response never does anything twice; while offline, commands wait in order;
//   - one refresh at a time: several calls that find the access token expired share it;
//   - the WebSocket resumes after the last event that was handled (`after`, `epoch`), so
//     every event is handled exactly once and in order, across any number of reconnects;
//   - `resync` means that the history is gone: read GET /api/sync and start over from it.
//
// Events of the client (EventTarget): "event" (detail: the frame), "state" (detail:
// "offline" | "connecting" | "online"), "resync" (detail: the snapshot), "signedout".

const RETRYABLE = new Set([429, 502, 503, 504]);

export class ApiError extends Error {
  /** @param {{status:number, code:string, detail?:string, title?:string}} problem RFC 9457 */
  constructor(problem) {
    super(problem.detail || problem.title || problem.code);
    this.status = problem.status;
    this.code = problem.code;
  }
}

export class BondMate extends EventTarget {
  #base;
  #tokens = null; // {accessToken, refreshToken}
  #refreshing = null;
  #wanted = false; // whether the application wants to be online
  #socket = null;
  #attempt = 0;
  #reconnect = 0;
  #heartbeat = 0;
  #seq = null; // last event handled; null until the first snapshot or hello
  #epoch = null;
  #outbox = Promise.resolve(); // commands go one after another
  #wake = new Set(); // commands that wait for the network

  constructor(base = location.origin) {
    super();
    this.#base = base;
    this.state = "offline";
    this.user = null;
  }

  /** The last event that was handled. */
  get seq() {
    return this.#seq ?? 0;
  }

  // --- accounts -------------------------------------------------------------------

  async register(email, password, displayName) {
    return this.#signedIn(await this.#send("POST", "/api/auth/register", { body: { email, password, displayName } }));
  }

  async login(email, password) {
    return this.#signedIn(await this.#send("POST", "/api/auth/login", { body: { email, password } }));
  }

  #signedIn(answer) {
    this.#tokens = { accessToken: answer.accessToken, refreshToken: answer.refreshToken };
    this.user = answer.user;
    return answer.user;
  }

  // --- calls ----------------------------------------------------------------------

  /** Reads something. */
  get(path) {
    return this.#authorized("GET", path);
  }

  /** Changes something that is not a command (a device, a preference). */
  call(method, path, body) {
    return this.#authorized(method, path, { body });
  }

  /**
   * Sends a command and returns its outcome: {commandId, status, requestId?, result?, seq?}.
   * Rejections are thrown as ApiError with a stable code. Commands of one client go out in
   * the order in which they were called; a client without network keeps them.
   */
  command(method, path, body) {
    const key = crypto.randomUUID();
    const run = () => this.#deliver(method, path, body, key);
    const outcome = this.#outbox.then(run, run);
    this.#outbox = outcome.catch(() => {});
    return outcome;
  }

  async #deliver(method, path, body, key) {
    const headers = { "Idempotency-Key": key, Prefer: "wait=5" };
    for (let attempt = 0; ; attempt++) {
      await this.#network();
      try {
        return await this.#authorized(method, path, { body, headers });
      } catch (err) {
        // No answer at all (no network, time-out) or a passing fault: the key makes it safe.
        const again = !(err instanceof ApiError) || RETRYABLE.has(err.status);
        if (!again || attempt >= 8) throw err;
        await sleep(err.retryAfterMs ?? backoff(attempt));
      }
    }
  }

  #network() {
    if (this.#wanted) return Promise.resolve();
    return new Promise((resolve) => this.#wake.add(resolve));
  }

  async #authorized(method, path, { body, headers = {} } = {}) {
    const token = this.#tokens?.accessToken;
    try {
      return await this.#send(method, path, { body, headers: { ...headers, Authorization: `Bearer ${token}` } });
    } catch (err) {
      if (!(err instanceof ApiError) || err.code !== "token_expired") throw err;
      await this.#refresh(token);
      const fresh = `Bearer ${this.#tokens.accessToken}`;
      return this.#send(method, path, { body, headers: { ...headers, Authorization: fresh } });
    }
  }

  // Refresh tokens are single-use: whoever comes second waits for the first one's answer.
  async #refresh(expired) {
    if (this.#tokens.accessToken !== expired) return; // somebody has refreshed meanwhile
    this.#refreshing ??= this.#send("POST", "/api/auth/refresh", { body: { refreshToken: this.#tokens.refreshToken } })
      .then((answer) => this.#signedIn(answer))
      .finally(() => (this.#refreshing = null));
    await this.#refreshing;
  }

  async #send(method, path, { body, headers = {} } = {}) {
    const response = await fetch(this.#base + path, {
      method,
      headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(15_000),
      cache: "no-store",
    });
    const text = await response.text();
    const answer = text ? JSON.parse(text) : null;
    if (response.ok) return answer;
    const err = new ApiError(answer ?? { status: response.status, code: "internal" });
    const after = Number(response.headers.get("Retry-After"));
    if (after > 0) err.retryAfterMs = after * 1000;
    throw err;
  }

  // --- live updates ---------------------------------------------------------------

  /** Goes online and stays so: the socket is reopened whenever it closes. */
  connect() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#wake.forEach((resolve) => resolve());
    this.#wake.clear();
    this.#open();
  }

  /** Goes offline. Nothing is lost: the next connect() resumes. */
  disconnect() {
    this.#wanted = false;
    clearTimeout(this.#reconnect);
    this.#socket?.close(1000);
    this.#socket = null;
    this.#become("offline");
  }

  async #open() {
    this.#become("connecting");
    let ticket;
    try {
      // Browsers cannot set a header on a WebSocket, and a token never goes into a URL.
      ({ ticket } = await this.call("POST", "/api/realtime/ticket"));
    } catch {
      return this.#retry();
    }
    if (!this.#wanted) return;
    const socket = new WebSocket(this.#base.replace(/^http/, "ws") + "/api/realtime", "bondmate.v1");
    this.#socket = socket;
    socket.onopen = () => {
      const hello = { op: "hello", ticket, visible: document.visibilityState === "visible" };
      if (this.#seq !== null) Object.assign(hello, { after: this.#seq, epoch: this.#epoch });
      socket.send(JSON.stringify(hello));
    };
    socket.onmessage = (message) => this.#receive(socket, JSON.parse(message.data));
    socket.onclose = (close) => {
      clearInterval(this.#heartbeat);
      if (this.#socket !== socket) return;
      this.#socket = null;
      if (close.code === 4004) {
        this.#wanted = false;
        this.#become("offline");
        return this.dispatchEvent(new CustomEvent("signedout"));
      }
      if (this.#wanted) this.#retry(retryAfter(close));
    };
  }

  #receive(socket, frame) {
    switch (frame.op) {
      case "ready":
        this.#attempt = 0;
        this.#epoch = frame.epoch;
        this.#seq ??= frame.seq;
        this.#heartbeat = setInterval(() => socket.send('{"op":"ping"}'), frame.heartbeat * 1000);
        return this.#become("online");
      case "event":
        if (frame.seq <= this.#seq) return; // a repeat
        if (frame.seq !== this.#seq + 1) return socket.close(); // never with this server: resume
        this.#seq = frame.seq;
        this.dispatchEvent(new CustomEvent("event", { detail: frame }));
        return socket.send(JSON.stringify({ op: "ack", seq: frame.seq }));
      case "resync":
        return this.#resync();
    }
  }

  /** Reads the whole state in one snapshot and goes on from there. */
  async #resync() {
    const snapshot = await this.get("/api/sync");
    this.#seq = snapshot.seq;
    this.#epoch = snapshot.epoch;
    this.dispatchEvent(new CustomEvent("resync", { detail: snapshot }));
    this.#socket?.close(); // resume from the snapshot
  }

  #retry(wait = backoff(this.#attempt++)) {
    if (!this.#wanted) return;
    this.#become("connecting");
    this.#reconnect = setTimeout(() => this.#open(), wait);
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }
}

/** Exponential with full jitter, 250 ms to 15 s: a crowd of clients comes back spread out. */
function backoff(attempt) {
  return Math.random() * Math.min(15_000, 500 * 2 ** attempt);
}

/** A server that leaves says when to come back: {"retryAfterMs": N} as the close reason. */
function retryAfter(close) {
  try {
    return JSON.parse(close.reason).retryAfterMs;
  } catch {
    return undefined;
  }
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
