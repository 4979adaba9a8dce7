// Builds the page into dist/: one script and one stylesheet with hashed names, and index.html that names them.
import { build } from "esbuild";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { gzipSync } from "node:zlib";

await rm("dist", { recursive: true, force: true });
await mkdir("dist");
const { metafile } = await build({
  entryPoints: ["src/main.js", "src/style.css"],
  outdir: "dist",
  entryNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome90", "firefox90", "safari15"],
  legalComments: "none",
  metafile: true,
});
const built = (ending) => basename(Object.keys(metafile.outputs).find((path) => path.endsWith(ending)));
const html = (await readFile("src/index.html", "utf8"))
  .replace("{{script}}", built(".js"))
  .replace("{{style}}", built(".css"));
await writeFile("dist/index.html", html);
await writeFile("dist/licences.txt", await readFile("node_modules/hls.js/LICENSE"));

for (const file of [built(".js"), built(".css"), "index.html"]) {
  const bytes = await readFile(`dist/${file}`);
  console.log(`${file}: ${bytes.length} bytes, ${gzipSync(bytes).length} with gzip`);
}
