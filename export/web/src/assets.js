// The files inside the page: gzip in base64, each in a <script type="text/plain" id="asset:NAME">.

export async function asset(name) {
  return unpacked(bytesOf(document.getElementById(`asset:${name}`).textContent));
}

export const hasAsset = (name) => document.getElementById(`asset:${name}`) !== null;

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64.trim());
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place++) bytes[place] = text.charCodeAt(place);
  return bytes;
}

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
