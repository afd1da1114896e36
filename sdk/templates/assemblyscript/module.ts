/** NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum. */

// @ts-ignore: decorator
@external("device:module/messaging@0.1.0", "publish")
declare function publish(topic: usize, topicSize: u32, payload: usize, size: u32, out: usize): void;

const ARENA: u32 = 32768;
const arena = memory.data(32768, 16);
const digits = memory.data(10);
const outcome = memory.data(12, 4); // failed: u8, at: usize, size: u32
const status = memory.data(2);
const topicName = memory.data<u8>([114, 101, 97, 100, 105, 110, 103, 115, 47, 115, 117, 109]); // readings/sum
let used: u32 = 0;

/** The canonical ABI's allocator: what the host passes in lives until the event is handled. */
export function cabi_realloc(old: usize, oldSize: u32, alignment: u32, size: u32): usize {
  const start = (used + alignment - 1) & ~(alignment - 1);
  if (size > ARENA || start > ARENA - size) unreachable();
  used = start + size;
  if (old) memory.copy(arena + start, old, min(oldSize, size));
  return arena + start;
}

export function handle(topic: usize, topicSize: u32, payload: usize, size: u32): usize {
  let sum: u32 = 0;
  for (let i: u32 = 0; i < size; i++) sum += load<u8>(payload + i);
  let at: u32 = 10;
  do {
    store<u8>(digits + --at, 48 + (sum % 10));
    sum /= 10;
  } while (sum);
  publish(topicName, 12, digits + at, 10 - at, status);
  memory.fill(outcome, 0, 12);
  store<u8>(outcome, load<u8>(status));
  return outcome;
}

export function posted(result: usize): void {
  used = 0;
}
