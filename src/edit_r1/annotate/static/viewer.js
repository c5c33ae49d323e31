// Three panes that zoom and move as one; the source in place of both edits; what each edit changed.

const MOST = 16;
const STEP = 1.5;
const AMPLIFY = 4;
const MOST_PIXELS = 1_000_000;

export class Viewer {
  constructor(root) {
    this.root = root;
    this.views = Object.fromEntries(
      [...root.querySelectorAll(".pane")].map((pane) => [pane.dataset.side, pane.querySelector(".view")]),
    );
    this.card = null;
    this.differing = false;
    this.pointers = new Map();
    this.filled = new Map(); // of each view: the share of it that the whole picture takes, across and down
    this.fit();
    const resized = new ResizeObserver(() => this.#measure());
    for (const view of Object.values(this.views)) {
      this.#listen(view);
      resized.observe(view);
    }
  }

  // Shows a card whose pictures are loaded, at full view.
  show(card) {
    this.card = card;
    for (const [side, view] of Object.entries(this.views)) view.replaceChildren(card.layers[side]);
    this.#measure();
    this.fit();
    if (this.differing) requestAnimationFrame(() => this.#drawDifferences()); // after the pictures are visible
  }

  clear() {
    this.card = null;
    for (const view of Object.values(this.views)) view.replaceChildren();
  }

  blink(on) {
    this.root.classList.toggle("blinking", on);
  }

  toggleDifference() {
    this.differing = !this.differing;
    if (this.differing) this.#drawDifferences();
    this.root.classList.toggle("differing", this.differing);
    for (const canvas of this.root.querySelectorAll("canvas")) canvas.hidden = !this.differing;
    return this.differing;
  }

  fit() {
    this.#place(1, 0.5, 0.5);
  }

  // x, y: the point that stays where it is, as shares of the view; without a view the middle of each stays.
  zoom(factor, view = null, x = 0.5, y = 0.5) {
    const scale = Math.min(MOST, Math.max(1, this.scale * factor));
    const less = 1 / this.scale - 1 / scale;
    const [across, down] = this.filled.get(view) ?? [1, 1];
    this.#place(scale, this.x + ((x - 0.5) / across) * less, this.y + ((y - 0.5) / down) * less);
  }

  zoomIn() {
    this.zoom(STEP);
  }

  zoomOut() {
    this.zoom(1 / STEP);
  }

  // By shares of a view.
  move(dx, dy, view = null) {
    const [across, down] = this.filled.get(view) ?? [1, 1];
    this.#place(this.scale, this.x - dx / (this.scale * across), this.y - dy / (this.scale * down));
  }

  // x, y: the point of the pictures, as shares of them, that lies in the middle of every view. So all show the same
  // part, whatever the views' shapes.
  #place(scale, x, y) {
    const within = (middle, place) => {
      const most = Math.max(0, ...[...this.filled.values()].map((shares) => shares[place])) || 1;
      const half = Math.min(0.5, 0.5 / (scale * most)); // of what is seen where most of the view is filled
      return Math.min(1 - half, Math.max(half, middle));
    };
    [this.scale, this.x, this.y] = [scale, within(x, 0), within(y, 1)];
    const style = this.root.style;
    style.setProperty("--scale", this.scale);
    style.setProperty("--x", this.x);
    style.setProperty("--y", this.y);
    this.root.classList.toggle("zoomed", scale > 1);
  }

  #measure() {
    for (const view of Object.values(this.views)) {
      const image = view.querySelector("img.edit");
      const wide = image && view.clientHeight ? (image.naturalWidth * view.clientHeight) / (image.naturalHeight * view.clientWidth) : 1;
      const shares = [Math.min(1, wide), Math.min(1, 1 / wide)];
      this.filled.set(view, shares);
      view.style.setProperty("--across", shares[0]);
      view.style.setProperty("--down", shares[1]);
    }
  }

  #listen(view) {
    const share = (event) => {
      const box = view.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    };
    view.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const { x, y } = share(event);
        this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), view, x, y);
      },
      { passive: false },
    );
    view.addEventListener("dblclick", (event) => {
      const { x, y } = share(event);
      if (this.scale > 1) this.fit();
      else this.zoom(3, view, x, y);
    });
    view.addEventListener("pointerdown", (event) => {
      view.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, { view, ...share(event) });
    });
    view.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (!before || before.view !== view) return;
      const now = share(event);
      const others = [...this.pointers].filter(([id, one]) => id !== event.pointerId && one.view === view);
      if (others.length === 1) {
        // Two fingers: what is between them stays between them.
        const [, other] = others[0];
        const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1e-6;
        this.move((now.x - before.x) / 2, (now.y - before.y) / 2, view);
        this.zoom(distance(now) / distance(before), view, (now.x + other.x) / 2, (now.y + other.y) / 2);
      } else if (!others.length) {
        this.move(now.x - before.x, now.y - before.y, view);
      }
      this.pointers.set(event.pointerId, { view, ...now });
    });
    for (const end of ["pointerup", "pointercancel"]) {
      view.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
  }

  #drawDifferences() {
    if (!this.card) return;
    for (const side of ["left", "right"]) {
      const layer = this.card.layers[side];
      if (layer.querySelector("canvas")) continue;
      const canvas = differenceOf(this.card.layers.source.firstChild, layer.firstChild);
      canvas.hidden = !this.differing;
      layer.append(canvas);
    }
  }
}

// |edit - source|, times AMPLIFY, on black; the edit takes the source's size.
function differenceOf(source, edit) {
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (source.naturalWidth * source.naturalHeight)));
  const width = Math.max(1, Math.round(source.naturalWidth * shrink));
  const height = Math.max(1, Math.round(source.naturalHeight * shrink));
  const pixels = (image) => {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  };
  const a = pixels(source);
  const b = pixels(edit);
  for (let place = 0; place < a.data.length; place += 1) {
    if (place % 4 !== 3) a.data[place] = AMPLIFY * Math.abs(a.data[place] - b.data[place]); // clamped by the array
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.classList.toggle("pixels", source.naturalWidth < 256);
  canvas.getContext("2d").putImageData(a, 0, 0);
  return canvas;
}
