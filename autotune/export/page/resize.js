// Pillow's resize of 8-bit pixels, to the last bit (src/libImaging/Resample.c): what the network was trained on.

const BITS = 22; // of the fixed-point weights
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight: (x) => {
      const a = -0.5, d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
    },
  },
};

// Returns, for each output pixel, the first input pixel and the weights of those from it.
function windows(inputSize, from, to, outputSize, { support, weight }) {
  const scale = (to - from) / outputSize;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  const found = [];
  for (let place = 0; place < outputSize; place += 1) {
    const center = from + (place + 0.5) * scale;
    const first = Math.max(Math.trunc(center - reach + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach + 0.5), inputSize);
    const weights = [];
    for (let x = first; x < end; x += 1) weights.push(weight((x - center + 0.5) / stretch));
    const sum = weights.reduce((total, one) => total + one, 0);
    const fixed = weights.map((one) => (sum ? one / sum : one) * (1 << BITS));
    found.push({ first, weights: fixed.map((one) => Math.trunc(one + (one < 0 ? -0.5 : 0.5))) });
  }
  return found;
}

// Resizes one line of `count` pixels that are `step` values apart; three channels.
function line(source, start, step, target, targetStart, targetStep, spans) {
  spans.forEach(({ first, weights }, place) => {
    for (let channel = 0; channel < 3; channel += 1) {
      let sum = 1 << (BITS - 1);
      for (let i = 0; i < weights.length; i += 1) sum += source[start + (first + i) * step + channel] * weights[i];
      target[targetStart + place * targetStep + channel] = Math.min(Math.max(sum >> BITS, 0), 255);
    }
  });
}

// Crops the largest square from the centre of RGB pixels (height, width, 3) and resizes it: (3, pixels, pixels), uint8.
export function cropSquare(rgb, width, height, pixels, interpolation) {
  const side = Math.min(width, height), left = (width - side) / 2, top = (height - side) / 2;
  const filter = FILTERS[interpolation];
  const columns = windows(width, left, left + side, pixels, filter);
  const rows = windows(height, top, top + side, pixels, filter);
  const isWide = width !== pixels || left !== 0, isHigh = height !== pixels || top !== 0;
  let wide = rgb, wideWidth = width;
  if (isWide) {
    wide = new Uint8Array(height * pixels * 3);
    wideWidth = pixels;
    for (let y = 0; y < height; y += 1) line(rgb, y * width * 3, 3, wide, y * pixels * 3, 3, columns);
  }
  let square = wide;
  if (isHigh) {
    square = new Uint8Array(pixels * pixels * 3);
    for (let x = 0; x < wideWidth; x += 1) line(wide, x * 3, wideWidth * 3, square, x * 3, pixels * 3, rows);
  }
  const planes = new Uint8Array(3 * pixels * pixels);
  for (let i = 0; i < pixels * pixels; i += 1)
    for (let channel = 0; channel < 3; channel += 1) planes[channel * pixels * pixels + i] = square[3 * i + channel];
  return planes;
}
