//! NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum.
#![no_std]
#![no_main]

use core::panic::PanicInfo;
use core::ptr::addr_of_mut;

#[link(wasm_import_module = "device:module/messaging@0.1.0")]
extern "C" {
    fn publish(topic: *const u8, topic_size: usize, payload: *const u8, size: usize, out: *mut [u8; 2]);
}

#[repr(C)]
pub struct Answer {
    failed: u8,
    at: *const u8,
    size: usize,
}

const ARENA: usize = 32768;
static mut MEMORY: [u64; ARENA / 8] = [0; ARENA / 8];
static mut USED: usize = 0;
static mut ANSWER: Answer = Answer { failed: 0, at: core::ptr::null(), size: 0 };

fn end() -> ! {
    core::arch::wasm32::unreachable()
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    end()
}

/// The canonical ABI's allocator: what the host passes in lives until the event is handled.
#[export_name = "cabi_realloc"]
pub unsafe extern "C" fn reallocate(old: *const u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    let start = (USED + align - 1) & !(align - 1);
    if size > ARENA || start > ARENA - size {
        end();
    }
    USED = start + size;
    let at = (addr_of_mut!(MEMORY) as *mut u8).add(start);
    if !old.is_null() {
        core::ptr::copy(old, at, if old_size < size { old_size } else { size });
    }
    at
}

#[export_name = "device:module/events@0.1.0#handle"]
pub unsafe extern "C" fn handle(_: *const u8, _: usize, payload: *const u8, size: usize) -> *const Answer {
    let mut sum: u32 = 0;
    for i in 0..size {
        sum = sum.wrapping_add(*payload.add(i) as u32);
    }
    let mut text = [0u8; 10];
    let mut at = text.len();
    loop {
        at -= 1;
        *text.as_mut_ptr().add(at) = b'0' + (sum % 10) as u8;
        sum /= 10;
        if sum == 0 {
            break;
        }
    }
    let topic = "readings/sum";
    let mut status = [0u8; 2];
    publish(topic.as_ptr(), topic.len(), text.as_ptr().add(at), text.len() - at, &mut status);
    let message = if status[0] == 0 { "" } else { "the sum could not be published" };
    *addr_of_mut!(ANSWER) = Answer { failed: status[0], at: message.as_ptr(), size: message.len() };
    addr_of_mut!(ANSWER)
}

#[export_name = "cabi_post_device:module/events@0.1.0#handle"]
pub unsafe extern "C" fn posted(_: *const Answer) {
    USED = 0;
}
