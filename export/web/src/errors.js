// Errors in the words of the shell: rarecli/core/errors.py. `problem`, then one indented line for each known part.

export class RareError extends Error {
  constructor(problem, parts = {}) {
    super(problem);
    this.problem = problem;
    this.parts = parts;
  }

  get text() {
    const names = ["case", "path", "field", "found", "expected", "remedy"];
    const known = names.filter((name) => this.parts[name] !== undefined);
    return [this.problem, ...known.map((name) => `  ${name}: ${shortened(this.parts[name])}`)].join("\n");
  }
}

function shortened(value, most = 1000) {
  const text = String(value);
  return text.length <= most ? text : `${text.slice(0, most)} ... (${text.length} characters)`;
}

// Python's list of numbers, as its errors print them.
export function listed(values) {
  return `[${values.map((value) => (Number.isFinite(value) ? value : pythonNumber(value))).join(", ")}]`;
}

function pythonNumber(value) {
  if (Number.isNaN(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

// A number with three significant digits, without trailing zeros.
export function short(value, digits = 3) {
  return String(Number(value.toPrecision(digits)));
}

export function gigabytes(numBytes) {
  return `${(numBytes / 2 ** 30).toFixed(1)} GB`;
}
