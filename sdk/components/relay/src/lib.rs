//! relay: a component for wasmCloud. It numbers the messages of each subject and passes them on to the subject of its configuration.

wit_bindgen::generate!({ world: "relay", path: "wit", generate_all });

use exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use wasi::keyvalue::{atomics, store};
use wasi::logging::logging::{log, Level};
use wasmcloud::messaging::consumer;

struct Relay;

impl Guest for Relay {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        log(Level::Info, "relay", &message.subject);
        let subject = wasi::config::store::get("target")
            .map_err(|error| format!("{error:?}"))?
            .ok_or("no target is configured")?;
        let seen = store::open("seen").map_err(|error| format!("{error:?}"))?;
        let number = atomics::increment(&seen, &message.subject, 1).map_err(|error| format!("{error:?}"))?;
        let mut body = format!("{number} ").into_bytes();
        body.extend(&message.body);
        seen.set("last", &body).map_err(|error| format!("{error:?}"))?;
        consumer::publish(&BrokerMessage { subject, body, reply_to: None })
    }
}

export!(Relay);
