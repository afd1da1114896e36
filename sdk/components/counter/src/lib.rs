//! counter: counts the events of each topic, by wit-bindgen. A component and its core module do the same.

wit_bindgen::generate!({ world: "module", path: "../../wit" });

use device::module::{keyvalue, messaging};
use exports::device::module::events::Guest;

struct Counter;

impl Guest for Counter {
    fn handle(topic: String, payload: Vec<u8>) -> Result<(), String> {
        let name = payload.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        if name == "fail" {
            return Err(format!("told to fail on {topic}"));
        }
        let count = match keyvalue::get(&topic) {
            Some(bytes) => u32::from_le_bytes(bytes.try_into().map_err(|_| "a count of another length")?) + 1,
            None => 1,
        };
        keyvalue::set(&topic, &count.to_le_bytes())?;
        let said = format!("{topic} {count} {name}");
        messaging::publish("tally/count", said.as_bytes()).map_err(|error| format!("{error:?}"))
    }
}

export!(Counter);
