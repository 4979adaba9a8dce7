// Headless Chromium with a profile of its own, and a page whose complaints are collected.
import { chromium } from 'playwright-core';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Calls `act(page, console)`; `console` fills with what the page wrote as error or threw. */
export async function withPage(act, options = {}) {
  const profile = await mkdtemp(join(tmpdir(), 'encoder-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required', '--mute-audio',
      // Tests make their own certificates.
      '--ignore-certificate-errors',
    ],
    ...options,
  });
  try {
    const page = context.pages()[0] ?? await context.newPage();
    const console = [];
    page.on('pageerror', (error) => console.push(String(error)));
    page.on('console', (message) => {
      // A missing favicon is Chromium's own idea.
      if (message.type() === 'error' && !message.location().url.endsWith('/favicon.ico')) console.push(message.text());
    });
    return await act(page, console);
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
}
