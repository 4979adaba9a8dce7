// hls-parser in strict mode over playlists on standard input: [[name, text], …] in, ["name: complaint", …] out.
import * as HLS from 'hls-parser';
import { text } from 'node:stream/consumers';

HLS.setOptions({ strictMode: true, silent: true });
const complaints = [];
for (const [name, playlist] of JSON.parse(await text(process.stdin))) {
  try {
    HLS.parse(playlist);
  } catch (error) {
    complaints.push(`${name}: ${error.message}`);
  }
}
process.stdout.write(JSON.stringify(complaints));
