// Clicks through the demo page as a person would. Usage: node demo.mjs URL, with MODULES
// naming the folder that holds playwright-core; SCREENSHOTS, when set, a folder for pictures.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.MODULES, "x.js"))("playwright-core");
const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });

try {
  const page = await browser.newPage({ viewport: { width: 1180, height: 830 }, deviceScaleFactor: 1.5 });
  page.setDefaultTimeout(15_000);
  const problems = [];
  page.on("pageerror", (err) => problems.push(`error: ${err.message}`));
  page.on("console", (m) => m.type() === "error" && problems.push(`console: ${m.text()}`));
  const picture = async (name) => {
    if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`) });
  };

  await page.goto(process.argv[2]);
  await page.locator("body[data-ready=true]").waitFor();
  const ada = page.locator("#left");
  const ben = page.locator("#right");
  const event = (phone, type) => phone.locator(`.events li[data-type="${type}"]`);
  await ada.locator('.dot[data-state="online"]').waitFor();
  await ben.locator('.dot[data-state="online"]').waitFor();

  // Ada sends by partner code; Ben sees it live and accepts.
  const code = await ben.locator(".code").textContent();
  await ada.locator("input[name=code]").fill(code.toLowerCase());
  await ada.locator(".send").click();
  await event(ben, "request.received").waitFor();
  await picture("request");
  await ben.locator(".accept").click();
  await ada.locator(".bond").waitFor();
  await ben.locator(".bond").waitFor();
  assert.equal(await ada.locator(".partner").textContent(), "Ben");
  assert.ok(Number(await page.locator("#count").textContent()) >= 2, "latencies are shown");

  // Ben's phone loses its network; Ada leaves; a push is due; back online Ben has missed nothing.
  await ben.locator(".switch").click();
  await ben.locator('.dot[data-state="offline"]').waitFor();
  await ada.locator(".leave").click();
  await event(ada, "partnership.ended").waitFor();
  await ben.locator(".banner").waitFor();
  await picture("push");
  assert.equal(await event(ben, "partnership.ended").count(), 0);
  await ben.locator(".switch").click();
  await event(ben, "partnership.ended").waitFor();
  assert.equal(await ben.locator(".seq").textContent(), await ben.locator(".events li time").first().textContent());

  // Ada, offline, invites again: the command waits on the phone and goes out on return.
  await ada.locator(".switch").click();
  await ada.locator('.dot[data-state="offline"]').waitFor();
  await ada.locator("input[name=code]").fill(code);
  await ada.locator(".send").click();
  await ada.locator(".switch").click();
  await ben.locator(".accept").click();
  await ada.locator(".restored").waitFor();
  await ben.locator(".restored").waitFor();
  await page.waitForFunction(() => !document.querySelector(".banner"), undefined, { timeout: 12_000 });
  await picture("demo");

  // Every inbox on the page is gapless.
  for (const phone of [ada, ben]) {
    const seqs = (await phone.locator(".events li time").allTextContents()).map(Number);
    assert.deepEqual(seqs, [...seqs].sort((a, b) => b - a));
    assert.equal(seqs[0] - seqs.at(-1) + 1, seqs.length, `gap in ${seqs}`);
    assert.equal(seqs.at(-1), 1);
  }
  assert.deepEqual(problems, []);
  console.log(`median ${await page.locator("#median").textContent()}, best ${await page.locator("#best").textContent()}`);
} finally {
  await browser.close();
}
