//! What the drivers in Rust (`examples/`) share, as `drivers/driver.h` does for those in C.

/// Marsaglia's xorshift: the same numbers everywhere.
pub struct Random(pub u32);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

/// Adds a value to a checksum.
pub fn mix(sum: u32, value: u32) -> u32 {
    (sum ^ value).wrapping_mul(16_777_619)
}

/// Adds bytes to a checksum.
pub fn sum_of(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, &each| mix(sum, u32::from(each)))
}

/// Words as a log has them, some often, with numbers between.
pub fn text(size: usize, seed: u32) -> String {
    const WORDS: [&str; 16] = [
        "sensor ", "pump ", "valve ", "ok ", "temperature ", "pressure ", "restart ", "error: ", "the ", "of ", "board-", "reading=",
        "warning, ", "link ", "lost.\n", "state ",
    ];
    let mut random = Random(seed);
    let mut out = String::new();
    while out.len() < size {
        let roll = random.next();
        if roll % 5 == 0 {
            out += &format!("{} ", roll >> 20);
        } else {
            out += WORDS[((roll >> 8) % 16 & (roll >> 12) % 16) as usize];
        }
    }
    out.truncate(size);
    out
}
