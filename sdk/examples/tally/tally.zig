//! tally: counts the events of each topic, keeps the counts in the board's key-value store, and publishes each new count.
//! The contract written by hand in Zig, without wit-bindgen; the state outlives the module in the store, so it has no `state`.

extern "device:module/messaging@0.1.0" fn publish(topic: [*]const u8, topic_size: u32, payload: [*]const u8, size: u32, out: *[2]u8) void;
extern "device:module/keyvalue@0.1.0" fn get(key: [*]const u8, size: u32, out: *Option) void;
extern "device:module/keyvalue@0.1.0" fn set(key: [*]const u8, size: u32, value: [*]const u8, value_size: u32, out: *Result) void;

const Option = extern struct { some: u8, at: [*]const u8, size: u32 };
const Result = extern struct { failed: u8, at: [*]const u8, size: u32 };

var arena: [16384]u8 align(16) = undefined;
var arena_used: usize = 0;
var result: Result = undefined;

fn realloc(old: ?[*]u8, old_size: usize, alignment: usize, size: usize) callconv(.c) [*]u8 {
    const start = (arena_used + alignment - 1) & ~(alignment - 1);
    if (size > arena.len or start > arena.len - size) @trap();
    arena_used = start + size;
    if (old) |bytes| @memcpy(arena[start..][0..@min(old_size, size)], bytes[0..@min(old_size, size)]);
    return arena[start..].ptr;
}

fn done() *Result {
    result = .{ .failed = 0, .at = "", .size = 0 };
    return &result;
}

fn failed(message: []const u8) *Result {
    result = .{ .failed = 1, .at = message.ptr, .size = @intCast(message.len) };
    return &result;
}

/// The count that is stored under a key: four little-endian bytes.
fn stored(key: []const u8) u32 {
    var out: Option = undefined;
    get(key.ptr, @intCast(key.len), &out);
    if (out.some == 0 or out.size != 4) return 0;
    return @as(u32, out.at[0]) | @as(u32, out.at[1]) << 8 | @as(u32, out.at[2]) << 16 | @as(u32, out.at[3]) << 24;
}

fn handle(topic: [*]const u8, topic_size: u32, payload: [*]const u8, size: u32) callconv(.c) *Result {
    _ = payload;
    _ = size;
    const count = stored(topic[0..topic_size]) + 1;
    const value = [4]u8{ @truncate(count), @truncate(count >> 8), @truncate(count >> 16), @truncate(count >> 24) };
    var out: Result = undefined;
    set(topic, topic_size, &value, 4, &out);
    if (out.failed != 0) return failed("the count could not be stored");

    var text: [64]u8 = undefined;
    var at: usize = text.len;
    var rest = count;
    while (true) {
        at -= 1;
        text[at] = '0' + @as(u8, @intCast(rest % 10));
        rest /= 10;
        if (rest == 0) break;
    }
    var status: [2]u8 = .{ 0, 0 };
    const name = "tally/count";
    publish(name, name.len, text[at..].ptr, @intCast(text.len - at), &status);
    return if (status[0] == 0) done() else failed("the count could not be published");
}

fn posted(_: *Result) callconv(.c) void {
    arena_used = 0;
}

comptime {
    @export(&realloc, .{ .name = "cabi_realloc" });
    @export(&handle, .{ .name = "device:module/events@0.1.0#handle" });
    @export(&posted, .{ .name = "cabi_post_device:module/events@0.1.0#handle" });
}
