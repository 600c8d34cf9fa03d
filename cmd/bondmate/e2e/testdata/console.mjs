// Works at the operators' console as a person would. Usage: node console.mjs URL, with MODULES
// naming the folder that holds playwright-core, ADMIN, SUPPORT and USER e-mail addresses that
// PASSWORD is right for, TARGET the id of a reported user; SCREENSHOTS, when set, a folder.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.MODULES, "x.js"))("playwright-core");
const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const [url, { ADMIN, SUPPORT, USER, TARGET, PASSWORD, SCREENSHOTS }] = [process.argv[2], process.env];

try {
  const context = await browser.newContext({ viewport: { width: 1240, height: 860 } });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const problems = [];
  page.on("pageerror", (err) => problems.push(`error: ${err.message}`));
  // The form to sign in is a 401, which the browser notes as an error of the network.
  page.on("console", (m) => m.type() === "error" && !/status of (401|409)/.test(m.text()) && problems.push(`console: ${m.text()}`));
  const picture = async (name, fullPage = false) => {
    if (SCREENSHOTS) await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage });
  };
  const signIn = async (email, password = PASSWORD) => {
    await page.getByLabel("E-mail address").fill(email);
    await page.getByLabel("Password").fill(password);
    await page.getByRole("button", { name: "Sign in" }).click();
  };
  const ready = () => page.locator("body[data-ready=true]").waitFor();
  const cookie = async () => (await context.cookies()).find((c) => c.name.endsWith("bondmate-ops"));
  const tile = (name) => page.locator(".tile", { hasText: name }).locator(".figure").textContent();
  const toast = (text) => page.locator(".toast", { hasText: text }).waitFor();
  const dialog = page.getByRole("dialog");
  // Nothing reaches beyond the screen's right edge.
  const fits = async () => assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page is wider than the screen");

  // Nobody gets in by a wrong password, nor by the right one of somebody who is no operator.
  await page.goto(url);
  await picture("console-signin");
  await signIn(ADMIN, "a wrong one");
  const refused = await page.getByRole("alert").textContent();
  await signIn(USER);
  await page.waitForLoadState();
  assert.equal(await page.getByRole("alert").textContent(), refused);
  assert.equal(await cookie(), undefined);

  // Support sees everything and can do nothing.
  await signIn(SUPPORT);
  await ready();
  assert.equal(await page.locator("#role").textContent(), "support");
  assert.equal(await page.locator("#parked tbody tr").count(), 1);
  for (const name of ["Retry", "Drop", "Replay", "Resolve"]) assert.ok(await page.getByRole("button", { name, exact: true }).first().isDisabled(), name);
  await picture("console-support");
  await page.getByRole("button", { name: "Sign out" }).click();

  await signIn(ADMIN);
  await ready();
  const granted = await cookie();
  assert.ok(granted.httpOnly && granted.sameSite === "Strict" && granted.path === "/", JSON.stringify(granted));
  assert.equal(await page.evaluate(() => document.cookie), "");
  assert.equal(await tile("Parked pairs"), "1");
  assert.equal(await tile("Dead letters"), "1");
  assert.equal(await tile("Open reports"), "2");
  await fits();
  await picture("console");

  // A dry run says what a drop would do; the drop does it.
  await page.locator("#parked").getByRole("button", { name: "Details" }).click();
  await dialog.getByText("request.hug").waitFor();
  await picture("console-details");
  await page.keyboard.press("Escape");
  await page.locator("#parked").getByRole("button", { name: "Drop" }).click();
  await dialog.getByRole("button", { name: "Dry run" }).click();
  await dialog.getByText("Nothing was changed").waitFor();
  await picture("console-dryrun");
  assert.equal(await page.locator("#parked tbody tr").count(), 1);
  await dialog.locator("#confirm").click();
  await toast("Drop: done: 2 settled");
  await page.getByText("No pair is parked.").waitFor();

  // A refusal is shown in the words of its problem, and the dialog stays.
  await page.locator("#letters").getByRole("button", { name: "Replay" }).click();
  await dialog.locator("#confirm").click();
  await dialog.getByRole("alert").getByText("not_replayable").waitFor();
  await page.keyboard.press("Escape");

  // What people wrote is text, not markup.
  await page.locator("#reports").getByRole("button", { name: "Resolve" }).first().click();
  await dialog.getByText("<b>He</b> writes again and again.").waitFor();
  await dialog.getByLabel("Warned").check();
  await dialog.getByLabel("Note for other operators").fill("Called on the phone.");
  await picture("console-report");
  await dialog.locator("#confirm").click();
  await toast("resolved: warned");
  await page.waitForFunction(() => [...document.querySelectorAll(".tile")].some((t) => /Open reports/.test(t.textContent) && t.querySelector(".figure").textContent === "1"));

  // A user, found by the keyboard alone.
  await page.getByLabel("User id").fill(TARGET);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Change tier to premium" }).click();
  await dialog.getByText("Ben").waitFor();
  await dialog.locator("#confirm").click();
  await toast("The tier is premium.");
  await page.locator("#user").scrollIntoViewIfNeeded();
  await picture("console-user");

  // The same on a phone's screen.
  await page.setViewportSize({ width: 390, height: 844 });
  await page.getByLabel("Show").selectOption("");
  await page.waitForFunction(() => document.querySelectorAll("#reports tbody tr").length === 2);
  await fits();
  await page.evaluate(() => document.querySelectorAll(".toast").forEach((t) => t.remove()));
  await picture("console-narrow", true);

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("button", { name: "Sign in" }).waitFor();
  await fits();
  assert.equal(await cookie(), undefined);
  await picture("console-signin-narrow");

  // The old cookie is worth nothing, also to who kept it.
  await context.addCookies([granted]);
  await page.goto(url);
  await page.getByText("You have been signed out").waitFor();
  assert.equal(await cookie(), undefined);
  assert.deepEqual(problems, []);
} finally {
  await browser.close();
}
