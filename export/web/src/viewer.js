// Three slices through one point, in RAS axes: the scan in grey, its labels filled. Arrays have X fastest, in the axes of the scan.
import { alongRas, orientationOf, spacingOf, strides } from "./geometry.js";
import { percentiles } from "./normalisation.js";

const COLOURS = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [240, 228, 66], [255, 255, 255]];
const CUTS = { axial: [2, 0, 1], coronal: [1, 0, 2], sagittal: [0, 1, 2] }; // the axis that a plane cuts; those to the right and up
const MOST_SAMPLES = 100000;

export const colourOf = (index) => COLOURS[index % COLOURS.length];

// Shows a scan { shape, affine, data } and its labels in an element with one .plane for each of CUTS. values: the label values in order.
export class Viewer {
  constructor(root) {
    this.root = root;
    this.planes = Object.entries(CUTS).map(([name, axes]) => {
      const part = root.querySelector(`[data-plane=${name}]`);
      const plane = { name, axes, stage: part.querySelector(".stage"), canvas: part.querySelector("canvas"), slider: part.querySelector("input"), words: part.querySelector("output") };
      this.listen(plane);
      return plane;
    });
    this.opacity = root.querySelector("#opacity");
    this.overlay = root.querySelector("#overlay");
    this.opacity.addEventListener("input", () => this.paint());
    this.overlay.addEventListener("change", () => this.paint());
    new ResizeObserver(() => this.paint()).observe(this.planes[0].stage);
  }

  show(scan, labels, values) {
    const orientation = orientationOf(scan.affine);
    this.shape = alongRas(scan.shape, orientation);
    this.spacing = alongRas(spacingOf(scan.affine), orientation);
    this.strides = strides(scan.shape, orientation);
    [this.data, this.labels] = [scan.data, labels];
    this.colours = new Map(values.filter((value) => value !== 0).map((value, index) => [value, colourOf(index)]));
    const every = Math.ceil(scan.data.length / MOST_SAMPLES);
    const [low, high] = percentiles(scan.data.filter((_, place) => place % every === 0), [0.5, 99.5]);
    this.grey = { low, scale: 255 / (high - low || 1) };
    this.point = this.startingPoint();
    this.paint();
  }

  // The middle of the slices with the most labels; without labels the middle of the scan.
  startingPoint() {
    const counts = this.shape.map((size) => new Uint32Array(size));
    const [sizeX, sizeY, sizeZ] = this.shape;
    for (let x = 0; x < sizeX; x++) {
      for (let y = 0; y < sizeY; y++) {
        for (let z = 0; z < sizeZ; z++) {
          if (this.labels[this.place([x, y, z])]) [x, y, z].forEach((index, axis) => counts[axis][index]++);
        }
      }
    }
    return counts.map((sums) => {
      const most = sums.reduce((top, num) => Math.max(top, num), 0);
      return most ? sums.indexOf(most) : Math.floor(sums.length / 2);
    });
  }

  place([x, y, z]) {
    const { start, steps } = this.strides;
    return start + x * steps[0] + y * steps[1] + z * steps[2];
  }

  move(axis, index) {
    this.point[axis] = Math.min(Math.max(index, 0), this.shape[axis] - 1);
    this.paint();
  }

  paint() {
    if (!this.shape) return;
    this.planes.forEach((plane) => this.paintPlane(plane));
    this.root.dataset.shown = this.point.join();
  }

  paintPlane({ axes: [cut, right, up], stage, canvas, slider, words }) {
    const [width, height] = [this.shape[right], this.shape[up]];
    const [wide, high] = [width * this.spacing[right], height * this.spacing[up]];
    const scale = stage.clientWidth / Math.max(wide, high);
    Object.assign(canvas.style, { width: `${wide * scale}px`, height: `${high * scale}px` });
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").putImageData(this.pixels(cut, right, up), 0, 0);
    Object.assign(slider, { max: this.shape[cut] - 1, value: this.point[cut] });
    words.textContent = `slice ${this.point[cut] + 1} of ${this.shape[cut]}`;
    slider.setAttribute("aria-valuetext", words.textContent);
  }

  pixels(cut, right, up) {
    const [width, height] = [this.shape[right], this.shape[up]];
    const pixels = new ImageData(width, height);
    const at = [...this.point];
    const share = this.overlay.checked ? Number(this.opacity.value) / 100 : 0;
    for (let v = 0; v < height; v++) {
      at[up] = height - 1 - v;
      for (let u = 0; u < width; u++) {
        at[right] = u;
        const place = this.place(at);
        const grey = Math.min(Math.max((this.data[place] - this.grey.low) * this.grey.scale, 0), 255);
        const colour = this.colours.get(this.labels[place]);
        const target = 4 * (v * width + u);
        for (let part = 0; part < 3; part++) pixels.data[target + part] = colour ? grey * (1 - share) + colour[part] * share : grey;
        pixels.data[target + 3] = 255;
      }
    }
    return pixels;
  }

  listen({ axes: [cut, right, up], stage, canvas, slider }) {
    slider.addEventListener("input", () => this.move(cut, Number(slider.value)));
    const point = (event) => {
      if (!this.shape || !event.buttons) return;
      const box = canvas.getBoundingClientRect();
      this.move(right, Math.floor(((event.clientX - box.left) / box.width) * this.shape[right]));
      this.move(up, Math.floor((1 - (event.clientY - box.top) / box.height) * this.shape[up]));
    };
    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      slider.focus();
      canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    canvas.addEventListener("pointermove", point);
    stage.addEventListener("wheel", (event) => {
      if (document.activeElement !== slider || !this.shape) return; // otherwise the page scrolls
      event.preventDefault();
      this.move(cut, this.point[cut] - Math.sign(event.deltaY));
    }, { passive: false });
  }
}
