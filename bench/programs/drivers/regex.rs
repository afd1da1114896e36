//! Looks for four patterns in 32 kB of text.
use programs::{mix, text};
use regex::Regex;

#[no_mangle]
pub extern "C" fn run(times: u32) -> u32 {
    let patterns = [r"(sensor|pump|valve) (\d+)", r"[a-z]+=\d{2,4}\b", r"(?i)ERROR: (?<what>\w+)", r"(\w+) of (\w+)\s+(\d+)"];
    let patterns = patterns.map(|each| Regex::new(each).unwrap());
    let text = text(32_768, 14);
    let mut sum = 0;
    for turn in 0..times as usize {
        for pattern in &patterns {
            for found in pattern.captures_iter(&text[turn % 1000..]) {
                let whole = found.get(0).unwrap();
                sum = mix(mix(sum, whole.start() as u32), whole.end() as u32);
                sum = mix(sum, found.iter().flatten().count() as u32);
            }
        }
    }
    sum
}
