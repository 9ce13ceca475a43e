// From strokes to a picture like those of the data set.
//
// The data (UCI optical recognition of handwritten digits) are bitmaps of 32×32 black or white pixels, cut into
// blocks of 4×4; a block's count of black pixels, 0 to 16, is one of 8×8 values. Measured on the 1,797 scans of
// scikit-learn: the ink fills the height of all of them, it is 6 of 8 columns wide in the mean, and it covers 30 % of
// the bitmap, a 1 as much as an 8. So strokes are stretched to such a box, and the pen that draws them into the
// bitmap is as thick as it takes.

export const SIDE = 8;
const BITMAP = 32;
const BLOCK = BITMAP / SIDE;
const WIDTH = 20; // of the ink in the bitmap, for all digits but narrow ones
const NARROW = 0.5; // width by height, below which a digit keeps its proportions: most are a 1
const INK = 0.3; // share of the bitmap
const THINNEST = 2; // pens, in pixels of the bitmap
const THICKEST = 14;

/**
 * @param {number[][][]} strokes lists of points [x, y], in any unit, y downwards.
 * @returns {Float32Array | null} 64 values in [0, 1], row by row; null if there is no point.
 */
export function pictureOf(strokes) {
  const points = strokes.flat();
  if (points.length === 0) return null;
  const box = boxOf(points);
  let thin = THINNEST;
  let thick = THICKEST;
  for (let step = 0; step < 10; step++) {
    const pen = (thin + thick) / 2;
    if (inkOf(bitmapOf(strokes, box, pen)) > INK * BITMAP * BITMAP) thick = pen;
    else thin = pen;
  }
  return blocksOf(bitmapOf(strokes, box, thin));
}

function boxOf(points) {
  const box = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
  for (const [x, y] of points) {
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y);
  }
  return box;
}

/** Factors on x and y that leave room for half a pen on each side. */
function scaleOf(box, pen) {
  const width = box.right - box.left;
  const height = box.bottom - box.top;
  const across = width > 0 ? (WIDTH - pen) / width : 0;
  const down = height > 0 ? (BITMAP - pen) / height : 0;
  if (width < NARROW * height) return [Math.min(down, Math.max(across, 0)), down];
  if (height < NARROW * width) return [Math.max(across, 0), Math.max(across, 0)]; // a dash is no digit: do not blow it up
  return [Math.max(across, 0), down];
}

/** Pixels whose centre is at most half a pen from a stroke: 1, others 0. */
function bitmapOf(strokes, box, pen) {
  const [across, down] = scaleOf(box, pen);
  const bitmap = new Uint8Array(BITMAP * BITMAP);
  const place = ([x, y]) => [
    BITMAP / 2 + across * (x - (box.left + box.right) / 2),
    BITMAP / 2 + down * (y - (box.top + box.bottom) / 2),
  ];
  for (const stroke of strokes) {
    const placed = stroke.map(place);
    placed.forEach((point, index) => drawSegment(bitmap, placed[Math.max(index - 1, 0)], point, pen / 2));
  }
  return bitmap;
}

function drawSegment(bitmap, [x0, y0], [x1, y1], radius) {
  const clip = (value) => Math.min(BITMAP - 1, Math.max(0, Math.floor(value)));
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  for (let row = clip(Math.min(y0, y1) - radius); row <= clip(Math.max(y0, y1) + radius); row++) {
    for (let column = clip(Math.min(x0, x1) - radius); column <= clip(Math.max(x0, x1) + radius); column++) {
      const [x, y] = [column + 0.5 - x0, row + 0.5 - y0];
      const along = length > 0 ? Math.min(1, Math.max(0, (x * dx + y * dy) / length)) : 0;
      if (Math.hypot(x - along * dx, y - along * dy) <= radius) bitmap[row * BITMAP + column] = 1;
    }
  }
}

function inkOf(bitmap) {
  return bitmap.reduce((sum, pixel) => sum + pixel, 0);
}

function blocksOf(bitmap) {
  const counts = new Uint8Array(SIDE * SIDE);
  bitmap.forEach((pixel, index) => {
    const row = Math.floor(index / BITMAP / BLOCK);
    const column = Math.floor((index % BITMAP) / BLOCK);
    counts[row * SIDE + column] += pixel;
  });
  // In steps of 1/255, as images are kept in 8 bits for training.
  return Float32Array.from(counts, (count) => Math.round((count * 255) / (BLOCK * BLOCK)) / 255);
}
