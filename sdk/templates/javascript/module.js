/** NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum. */
import { publish } from "device:module/messaging";

/** @type {import("device:module").Events} */
export const events = {
  handle(topic, payload) {
    let sum = 0;
    for (const byte of payload) sum += byte;
    publish("readings/sum", String(sum));
  },
};
