//! Rust's own library: sorts, BTreeMap, HashMap, BinaryHeap, String.
use programs::{mix, sum_of, Random};
use std::collections::{hash_map::DefaultHasher, BTreeMap, BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;

#[no_mangle]
pub extern "C" fn run(times: u32) -> u32 {
    let (mut sum, mut random) = (0, Random(16));
    for _ in 0..times {
        let mut all: Vec<(String, u32)> = (0..2000)
            .map(|_| {
                let roll = random.next();
                ((roll >> 16).to_string(), roll)
            })
            .collect();
        all.sort_unstable();
        all.sort_by_key(|each| each.1 >> 22);
        let (mut tree, mut heap) = (BTreeMap::new(), BinaryHeap::new());
        let mut table: HashMap<u32, u32, BuildHasherDefault<DefaultHasher>> = HashMap::default();
        for (note, value) in &all {
            *tree.entry(note.clone()).or_insert(0u32) ^= value;
            *table.entry(value >> 22).or_insert(0) ^= value;
            heap.push(*value);
        }
        for (note, value) in &tree {
            sum = mix(sum_of(sum, note.as_bytes()), *value);
        }
        for (_, value) in &all {
            sum = mix(sum, table[&(value >> 22)]);
        }
        for _ in 0..1000 {
            sum = mix(sum, heap.pop().unwrap());
        }
    }
    sum
}
