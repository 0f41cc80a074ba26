// Numbers and lists as sentences of the phase stepper have them.

import { decimals, fixed } from "../drawing.js";

export const signed = (v, digits) => `${v > 0 ? "+" : ""}${fixed(v, digits)}`;
export const several = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
export const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

/** Three figures, as in "0.00789" and "12.3". */
export const figures = (v) => fixed(v, decimals([v]));

export const figuresSigned = (v) => signed(v, decimals([v]));
