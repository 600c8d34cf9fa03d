// The calls of the page. The browser sends the cookie along; the server refuses it from any
// other page.

// Problem is a refusal, in the words of its problem document.
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The server answered ${status}.`);
    this.status = status;
    this.code = document.code ?? "";
    this.fields = (document.errors ?? []).map((e) => `${e.pointer}: ${e.detail}`);
    this.requestId = document.requestId ?? "";
  }

  toString() {
    const parts = [this.message, ...this.fields];
    if (this.code) parts.push(`(${this.code}${this.status >= 500 && this.requestId ? `, request ${this.requestId}` : ""})`);
    return parts.join(" ");
  }
}

// idleFor is how long a visitor stays signed in who calls for nothing, as the cookie does.
const idleFor = 15 * 60 * 1000;
const deadline = 25_000;
let idle;

// signedOut leaves nothing of people's on the screen: the address answers with the form.
const signedOut = () => location.replace("/ops");

export async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(deadline),
    });
  } catch {
    throw new Problem(0, { detail: "The server cannot be reached, or does not answer. Try again." });
  }
  const document = await answer.json().catch(() => ({}));
  if (answer.status === 401) signedOut();
  if (!answer.ok) throw new Problem(answer.status, document);
  if (path.startsWith("/api/ops/")) {
    clearTimeout(idle);
    idle = setTimeout(signedOut, idleFor);
  }
  return document;
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);
export const put = (path, body) => call("PUT", path, body);
