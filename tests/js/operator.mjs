// Opens the operator's page in headless Chromium and reports what it shows.
// Standard input: {page, patience, screenshot?}; standard output: one JSON object.
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
  await page.waitForFunction(() => {
    const image = document.querySelector('article img');
    const encoded = window.__status?.streams?.[0]?.worker.rungs ?? [];
    return image?.complete && image.naturalWidth > 0 && document.querySelectorAll('tbody tr').length > 1
      && encoded.length > 0 && encoded.every((rung) => rung.quantiser_tenths > 0);
  }, null, { timeout: job.patience * 1000 });
  const first = await page.evaluate(() => window.__status.uptime_seconds);
  await page.waitForFunction((since) => window.__status.uptime_seconds > since + 1, first, { timeout: job.patience * 1000 });
  const shown = await page.evaluate(() => ({
    state: document.getElementById('state').textContent,
    why: document.getElementById('why').textContent,
    stream: document.querySelector('article h2').textContent,
    facts: Object.fromEntries([...document.querySelectorAll('dt')].map((dt) => [dt.textContent, dt.nextElementSibling.textContent])),
    rows: [...document.querySelectorAll('tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent)),
    picture: [document.querySelector('article img').naturalWidth, document.querySelector('article img').naturalHeight],
    warnings: [...document.querySelectorAll('#warnings li')].map((item) => item.textContent),
    lost: !document.getElementById('lost').hidden,
    status: window.__status,
  }));
  if (job.screenshot) await page.screenshot({ path: job.screenshot, fullPage: true });
  process.stdout.write(JSON.stringify({ ...shown, console, foreign }));
});
