// Works the operator's page in headless Chromium, by keyboard and mouse: sets a latency, ends the only stream.
// Standard input: {page, patience, reason, ban, latency, token?, screenshots?}; standard output: one JSON object.
// `token` is typed when the page asks for one, after a wrong token. `screenshots` names a folder.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
const patience = job.patience * 1000;
await withPage(async (page, console) => {
  page.setDefaultTimeout(patience);
  const requests = [];
  page.on('request', (request) => {
    if (request.method() !== 'GET') requests.push([request.method(), request.url(), request.headers().authorization ?? '']);
  });
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.__status?.streams?.length === 1);
  const title = await page.locator('article h2').textContent();
  const shoot = async (name) => {
    if (!job.screenshots) return;
    for (const [device, width, height] of [['desktop', 1100, 900], ['phone', 390, 844]]) {
      for (const colorScheme of ['light', 'dark']) {
        await page.setViewportSize({ width, height });
        await page.emulateMedia({ colorScheme });
        await page.screenshot({ path: `${job.screenshots}/${name}-${device}-${colorScheme}.png` });
      }
    }
    await page.setViewportSize({ width: 1100, height: 900 });
  };
  const open = (id) => page.locator(`dialog#${id}[open]`);
  const focused = () => page.evaluate(() => document.activeElement?.className ?? '');
  await shoot('page');

  // Escape closes without any change, and the focus returns to the button.
  await page.locator('article button.end').focus();
  await page.keyboard.press('Enter');
  await open('end').waitFor();
  await page.keyboard.press('Escape');
  await open('end').waitFor({ state: 'detached' });
  const escaped = { focus: await focused(), requests: requests.length };

  await page.getByRole('button', { name: /^Latency/ }).click();
  await page.getByLabel('Seconds from the camera').fill(String(job.latency));
  await shoot('latency');
  await page.getByLabel('Seconds from the camera').press('Enter');
  if (job.token) {
    await page.getByRole('textbox', { name: 'Token' }).fill('not the right token');
    await shoot('token');
    await page.getByRole('button', { name: 'Continue' }).click();
    await open('token').locator('.problem').filter({ hasText: 'not the right one' }).waitFor();
    await page.getByRole('textbox', { name: 'Token' }).fill(job.token);
    await page.getByRole('button', { name: 'Continue' }).click();
  }
  await page.locator('#done').filter({ hasText: 'from its next start on' }).waitFor();
  const latency = await page.locator('#done').textContent();

  // What the server refuses is shown in its words, and the dialog stays.
  await page.getByRole('button', { name: /^End/ }).click();
  const asks = await open('end').locator('h2').textContent();
  await page.getByLabel(/^Reason/).evaluate((field) => { field.value = 'x'.repeat(201); });
  await page.getByRole('button', { name: 'End the stream' }).click();
  await open('end').locator('.problem').filter({ hasText: '200 characters' }).waitFor();
  const problem = await open('end').locator('.problem').textContent();
  await shoot('problem');
  await page.getByLabel(/^Reason/).fill(job.reason);
  await page.getByLabel(/^Nobody may publish/).selectOption(job.ban);
  await shoot('end');
  await page.keyboard.press('Tab');
  await page.getByRole('button', { name: 'End the stream' }).click();
  await page.locator('#done').filter({ hasText: 'is ended' }).waitFor();
  const ended = await page.locator('#done').textContent();
  await page.waitForFunction(() => window.__status.streams.length === 0);
  const places = await page.evaluate(() => [location.href, ...Object.values(localStorage), ...Object.values(sessionStorage), document.cookie].join(' '));
  process.stdout.write(JSON.stringify({ title, asks, escaped, latency, problem, ended, requests, places, console }));
});
