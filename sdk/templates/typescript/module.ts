/** NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum. */
import type { Events } from "device:module";
import { publish } from "device:module/messaging";

export const events: Events = {
  handle(topic: string, payload: Uint8Array): void {
    let sum = 0;
    for (const byte of payload) sum += byte;
    publish("readings/sum", String(sum));
  },
};
