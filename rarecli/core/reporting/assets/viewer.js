"use strict";
// A viewer of slices: three planes through one point, the scan in grey, the prediction filled, the reference as an outline.
// Each view is one gzip stream in base64: image, reference and prediction as uint8, axes (X, Y, Z) in C order. It is unpacked when it is chosen.
(() => {
  const root = document.getElementById("viewer");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const find = (name) => document.getElementById(`v-${name}`);
  const COLOURS = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [240, 228, 66], [255, 255, 255]];
  const colour = (label) => COLOURS[(label - 1) % COLOURS.length];
  // which axis a plane cuts, and which axes run to the right and up
  const CUTS = { axial: [2, 0, 1], coronal: [1, 0, 2], sagittal: [0, 1, 2] };
  const planes = [...root.querySelectorAll(".plane")].map((part) => ({
    name: part.dataset.plane,
    axes: CUTS[part.dataset.plane],
    stage: part.querySelector(".stage"),
    canvas: part.querySelector("canvas"),
    slider: part.querySelector("input"),
    words: part.querySelector("output"),
  }));
  const shown = { case: 0, view: 0, volumes: null, point: null, turn: 0 };
  const unpacked = new Map();

  const unpack = async (view) => {
    if (unpacked.has(view)) return unpacked.get(view);
    const bytes = Uint8Array.from(atob(view.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const raw = new Uint8Array(await new Response(stream).arrayBuffer());
    const num = view.shape[0] * view.shape[1] * view.shape[2];
    const volumes = { image: raw.subarray(0, num), reference: raw.subarray(num, 2 * num), prediction: raw.subarray(2 * num) };
    unpacked.set(view, volumes);
    return volumes;
  };

  const current = () => data.cases[shown.case].views[shown.view];
  // the point is kept in mm, so that it stays where it is when the resolution changes
  const voxelOf = (axis) => {
    const view = current();
    const index = Math.floor((shown.point[axis] - view.corner[axis]) / view.spacing[axis]);
    return Math.min(Math.max(index, 0), view.shape[axis] - 1);
  };
  const moveTo = (axis, index) => {
    const view = current();
    const inside = Math.min(Math.max(index, 0), view.shape[axis] - 1);
    shown.point[axis] = view.corner[axis] + (inside + 0.5) * view.spacing[axis];
  };
  const offset = (shape, x, y, z) => (x * shape[1] + y) * shape[2] + z;

  // Returns functions that read one slice of a volume: (right, up) -> value.
  const reader = (plane) => {
    const { shape } = current();
    const [cut, right, up] = plane.axes;
    const at = [0, 0, 0];
    at[cut] = voxelOf(cut);
    return (volume, u, v) => {
      at[right] = u;
      at[up] = v;
      return volume[offset(shape, at[0], at[1], at[2])];
    };
  };

  const paintVoxels = (plane, width, height) => {
    const read = reader(plane);
    const { image, reference, prediction } = shown.volumes;
    const low = Number(find("centre").value) - Number(find("width").value) / 2;
    const scale = 255 / Number(find("width").value);
    const opacity = Number(find("opacity").value) / 100;
    const filled = find("prediction").checked;
    const onlyDifferences = find("difference").checked;
    const pixels = new ImageData(width, height);
    for (let v = 0; v < height; v++) {
      for (let u = 0; u < width; u++) {
        const grey = Math.min(Math.max((read(image, u, v) - low) * scale, 0), 255);
        const label = read(prediction, u, v);
        const differs = label !== read(reference, u, v);
        let paint = null;
        if (filled && label > 0) paint = colour(label);
        if (onlyDifferences) paint = differs ? [255, 60, 60] : null;
        const place = 4 * ((height - 1 - v) * width + u);
        for (let part = 0; part < 3; part++) {
          pixels.data[place + part] = paint ? grey * (1 - opacity) + paint[part] * opacity : grey;
        }
        pixels.data[place + 3] = 255;
      }
    }
    const buffer = document.createElement("canvas");
    buffer.width = width;
    buffer.height = height;
    buffer.getContext("2d").putImageData(pixels, 0, 0);
    return buffer;
  };

  // Draws lines along the voxel borders where the reference changes.
  const paintOutline = (context, plane, width, height, stepX, stepY) => {
    const read = reader(plane);
    const { reference } = shown.volumes;
    const label = (u, v) => (u < 0 || v < 0 || u >= width || v >= height ? 0 : read(reference, u, v));
    const strokes = new Map();
    const add = (value, ...line) => {
      if (!strokes.has(value)) strokes.set(value, new Path2D());
      strokes.get(value).moveTo(line[0], line[1]);
      strokes.get(value).lineTo(line[2], line[3]);
    };
    for (let v = 0; v <= height; v++) {
      for (let u = 0; u <= width; u++) {
        const here = label(u, v);
        const left = label(u - 1, v);
        const below = label(u, v - 1);
        const x = u * stepX;
        const y = (height - v) * stepY;
        if (here !== left) add(here || left, x, y, x, y - stepY);
        if (here !== below) add(here || below, x, y, x + stepX, y);
      }
    }
    for (const [style, size] of [["#000", 3.5], [null, 2]]) {
      context.lineWidth = size * devicePixelRatio;
      for (const [value, path] of strokes) {
        context.strokeStyle = style || `rgb(${colour(value).join(",")})`;
        context.stroke(path);
      }
    }
  };

  const paint = (plane) => {
    const view = current();
    const [cut, right, up] = plane.axes;
    const [width, height] = [view.shape[right], view.shape[up]];
    const [wide, high] = [width * view.spacing[right], height * view.spacing[up]];
    const scale = plane.stage.clientWidth / Math.max(wide, high);
    const { canvas } = plane;
    canvas.style.width = `${wide * scale}px`;
    canvas.style.height = `${high * scale}px`;
    canvas.width = Math.max(1, Math.round(wide * scale * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(high * scale * devicePixelRatio));
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(paintVoxels(plane, width, height), 0, 0, canvas.width, canvas.height);
    const [stepX, stepY] = [canvas.width / width, canvas.height / height];
    if (find("reference").checked) paintOutline(context, plane, width, height, stepX, stepY);
    const x = (voxelOf(right) + 0.5) * stepX;
    const y = (height - voxelOf(up) - 0.5) * stepY;
    context.strokeStyle = "rgba(255,255,255,.55)";
    context.lineWidth = devicePixelRatio;
    context.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    context.stroke(new Path2D(`M${x} 0V${canvas.height}M0 ${y}H${canvas.width}`));
    plane.slider.max = view.shape[cut] - 1;
    plane.slider.value = voxelOf(cut);
    const words = `slice ${voxelOf(cut) + 1} of ${view.shape[cut]}, ${shown.point[cut].toFixed(1)} mm`;
    plane.slider.setAttribute("aria-valuetext", words);
    plane.words.textContent = words;
  };

  const paintAll = () => {
    if (!shown.volumes) return;
    planes.forEach(paint);
    const at = offset(current().shape, voxelOf(0), voxelOf(1), voxelOf(2));
    const { image, reference, prediction } = shown.volumes;
    find("here").textContent =
      `At the cross: reference ${data.labels[reference[at]]}, prediction ${data.labels[prediction[at]]}, grey value ${image[at]} of 255.`;
  };

  // Starts where the reference has its largest extent.
  const startingPoint = (view, volumes) => {
    const labels = volumes.reference.some((value) => value > 0) ? volumes.reference : volumes.prediction;
    const counts = view.shape.map((size) => new Array(size).fill(0));
    let at = 0;
    for (let x = 0; x < view.shape[0]; x++) {
      for (let y = 0; y < view.shape[1]; y++) {
        for (let z = 0; z < view.shape[2]; z++) {
          if (labels[at++] > 0) {
            counts[0][x]++;
            counts[1][y]++;
            counts[2][z]++;
          }
        }
      }
    }
    return counts.map((sums, axis) => {
      const most = Math.max(...sums);
      const index = most > 0 ? sums.indexOf(most) : Math.floor(view.shape[axis] / 2);
      return view.corner[axis] + (index + 0.5) * view.spacing[axis];
    });
  };

  const show = async () => {
    const turn = ++shown.turn;
    const view = current();
    find("facts").textContent = view.facts;
    try {
      const volumes = await unpack(view);
      if (turn !== shown.turn) return; // another view was chosen meanwhile
      shown.volumes = volumes;
      shown.point ||= startingPoint(view, volumes);
      paintAll();
      root.dataset.ready = `${shown.case},${shown.view}`;
    } catch (error) {
      find("here").textContent = `This browser cannot unpack the volumes (${error.message}). A current one can.`;
    }
  };

  const chooseCase = () => {
    shown.case = Number(find("case").value);
    shown.point = null;
    const { views } = data.cases[shown.case];
    shown.view = Math.min(shown.view, views.length - 1);
    find("view").replaceChildren(...views.map((view, index) => new Option(view.name, index, false, index === shown.view)));
    show();
  };
  const chooseView = (index) => {
    shown.view = Math.min(Math.max(index, 0), data.cases[shown.case].views.length - 1);
    find("view").value = shown.view;
    show();
  };

  find("case").addEventListener("change", chooseCase);
  find("view").addEventListener("change", () => chooseView(Number(find("view").value)));
  for (const name of ["reference", "prediction", "difference"]) find(name).addEventListener("change", paintAll);
  for (const name of ["opacity", "centre", "width"]) find(name).addEventListener("input", paintAll);
  for (const plane of planes) {
    const [cut, right, up] = plane.axes;
    plane.slider.addEventListener("input", () => {
      moveTo(cut, Number(plane.slider.value));
      paintAll();
    });
    const point = (event) => {
      if (!shown.volumes || !event.buttons) return;
      const box = plane.canvas.getBoundingClientRect();
      const { shape } = current();
      moveTo(right, Math.floor(((event.clientX - box.left) / box.width) * shape[right]));
      moveTo(up, Math.floor((1 - (event.clientY - box.top) / box.height) * shape[up]));
      paintAll();
    };
    plane.canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      plane.slider.focus();
      plane.canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    plane.canvas.addEventListener("pointermove", point);
    plane.stage.addEventListener("wheel", (event) => {
      if (document.activeElement !== plane.slider || !shown.volumes) return; // otherwise the page scrolls
      event.preventDefault();
      moveTo(cut, voxelOf(cut) - Math.sign(event.deltaY));
      paintAll();
    }, { passive: false });
  }
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const box = { r: "reference", p: "prediction", d: "difference" }[event.key.toLowerCase()];
    if (box) {
      find(box).checked = !find(box).checked;
      paintAll();
    }
    if (event.key === "[" || event.key === "]") chooseView(shown.view + (event.key === "]" ? 1 : -1));
  });
  new ResizeObserver(paintAll).observe(planes[0].stage);
  find("legend").replaceChildren(...data.labels.slice(1).map((name, index) => {
    const item = document.createElement("li");
    const box = document.createElement("span");
    box.className = "box";
    box.style.background = `rgb(${colour(index + 1).join(",")})`;
    item.append(box, name);
    return item;
  }));
  chooseCase();
})();
