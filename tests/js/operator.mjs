// Opens the operator's page in headless Chromium and reports what it shows.
// Standard input: {page, patience, unreadable, screenshot?}; standard output: one JSON object. With `unreadable` the page is
// read once it warns of media that cannot be read. `screenshot` is a file; three more stand beside it, for the other color
// scheme and for a phone.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  const foreign = [];
  await page.setViewportSize({ width: 1100, height: 900 });
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(job.page) && !url.startsWith('data:')) foreign.push(url);
  });
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  // The picture is loaded anew every few seconds and has no size meanwhile.
  const seen = await page.waitForFunction(() => {
    const image = document.querySelector('article img');
    const encoded = window.__status?.streams?.[0]?.worker.rungs ?? [];
    return image?.complete && image.naturalWidth > 0 && document.querySelectorAll('tbody tr').length > 1
      && encoded.length > 0 && encoded.every((rung) => rung.quantiser_tenths > 0)
      && [image.naturalWidth, image.naturalHeight];
  }, null, { timeout: job.patience * 1000 });
  const first = await page.evaluate(() => window.__status.uptime_seconds);
  await page.waitForFunction((since) => window.__status.uptime_seconds > since + 1, first, { timeout: job.patience * 1000 });
  if (job.unreadable) {
    await page.waitForSelector('article .unreadable:not([hidden])', { timeout: job.patience * 1000 });
  }
  const shown = await page.evaluate(() => ({
    state: document.getElementById('state').textContent,
    why: document.getElementById('why').textContent,
    stream: document.querySelector('article h2').textContent,
    facts: Object.fromEntries([...document.querySelectorAll('dt')].map((dt) => [dt.textContent, dt.nextElementSibling.textContent])),
    rows: [...document.querySelectorAll('tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent)),
    warnings: [...document.querySelectorAll('#warnings li')].map((item) => item.textContent),
    unreadable: document.querySelector('article .unreadable').hidden ? '' : document.querySelector('article .unreadable').textContent,
    advice: [...document.querySelectorAll('article details li')].map((item) => item.firstChild.textContent),
    lost: !document.getElementById('lost').hidden,
    status: window.__status,
  }));
  if (job.screenshot) {
    await page.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
    for (const [suffix, width, height] of [['', 1100, 900], ['-phone', 390, 844]]) {
      await page.setViewportSize({ width, height });
      for (const scheme of ['dark', 'light']) {
        await page.emulateMedia({ colorScheme: scheme });
        const path = scheme === 'dark' && !suffix ? job.screenshot : job.screenshot.replace(/(\.png)?$/, `${suffix}-${scheme}.png`);
        await page.screenshot({ path, fullPage: true });
      }
    }
  }
  process.stdout.write(JSON.stringify({ ...shown, picture: await seen.jsonValue(), console, foreign }));
});
