//! Encodes 400 records and decodes them.
use minicbor::{Decoder, Encoder};
use programs::{mix, sum_of, Random};

#[no_mangle]
pub extern "C" fn run(times: u32) -> u32 {
    let (mut sum, mut random) = (0, Random(13));
    for _ in 0..times {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        encoder.array(400).unwrap();
        for _ in 0..400 {
            let roll = random.next();
            encoder.map(4).unwrap().str("board").unwrap().str(&format!("board-{}", roll % 1000)).unwrap();
            encoder.str("count").unwrap().u32(roll).unwrap().str("change").unwrap().i64(-i64::from(roll >> 7)).unwrap();
            encoder.str("raw").unwrap().bytes(&roll.to_le_bytes()).unwrap();
        }
        let mut decoder = Decoder::new(&bytes);
        for _ in 0..decoder.array().unwrap().unwrap() {
            for _ in 0..decoder.map().unwrap().unwrap() {
                sum = match decoder.str().unwrap() {
                    "board" => sum_of(sum, decoder.str().unwrap().as_bytes()),
                    "count" => mix(sum, decoder.u32().unwrap()),
                    "change" => mix(sum, decoder.i64().unwrap() as u32),
                    _ => sum_of(sum, decoder.bytes().unwrap()),
                };
            }
        }
        sum = mix(sum, bytes.len() as u32);
    }
    sum
}
