/* The C++ library: sort and stable_sort, map, unordered_map, priority_queue, string. */
#include "driver.h"
#include <algorithm>
#include <map>
#include <numeric>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

struct Reading {
    uint32_t time;
    uint16_t board;
    std::string note;
};

extern "C" uint32_t
run(uint32_t times)
{
    uint32_t sum = 0, seed = 10;
    for (uint32_t i = 0; i < times; i++) {
        std::vector<Reading> all;
        for (int each = 0; each < 2000; each++) {
            uint32_t roll = driver_random(&seed);
            all.push_back({ roll, static_cast<uint16_t>(roll >> 22), std::to_string(roll >> 16) });
        }
        std::sort(all.begin(), all.end(), [](const Reading &a, const Reading &b) { return a.note < b.note || (a.note == b.note && a.time < b.time); });
        std::stable_sort(all.begin(), all.end(), [](const Reading &a, const Reading &b) { return a.board < b.board; });
        std::map<std::string, uint32_t> tree;
        std::unordered_map<uint32_t, uint32_t> table;
        std::priority_queue<uint32_t> queue;
        for (const Reading &each : all) {
            tree[each.note] += each.time;
            table[each.board] ^= each.time;
            queue.push(each.time);
        }
        for (const auto &[note, time] : tree)
            sum = driver_mix(sum, time + static_cast<uint32_t>(note.size()));
        for (const Reading &each : all)
            sum = driver_mix(sum, table.find(each.board)->second);
        for (; queue.size() > 1000; queue.pop())
            sum = driver_mix(sum, queue.top());
        std::vector<uint32_t> numbers(4000);
        std::iota(numbers.begin(), numbers.end(), i);
        for (uint32_t &each : numbers)
            each = each * 2654435761u ^ sum;
        std::sort(numbers.begin(), numbers.end());
        sum = driver_sum(sum, numbers.data(), 64);
    }
    return sum;
}
