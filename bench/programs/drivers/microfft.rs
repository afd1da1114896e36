//! Transforms of 1,024 real and 512 complex numbers, single precision, with the tables that the library has.
use microfft::{complex::cfft_512, real::rfft_1024, Complex32};
use programs::{mix, Random};

#[no_mangle]
pub extern "C" fn run(times: u32) -> u32 {
    let (mut sum, mut random) = (0, Random(15));
    for _ in 0..times * 20 {
        let mut samples = [0f32; 1024];
        for each in &mut samples {
            *each = (random.next() >> 20) as f32 - 2048.0;
        }
        let spectrum = rfft_1024(&mut samples);
        let mut filtered = [Complex32::default(); 512];
        for (to, from) in filtered.iter_mut().zip(spectrum.iter()) {
            *to = Complex32::new(from.re * 0.25, from.im * 0.5);
        }
        let back = cfft_512(&mut filtered);
        sum = back.iter().step_by(8).fold(sum, |sum, each| mix(mix(sum, each.re.to_bits()), each.im.to_bits()));
    }
    sum
}
