/* Reading what Linux writes into /proc and /sys, and writing small JSON; all numbers are whole thousandths. */
#ifndef READINGS_H
#define READINGS_H

#include "device_module.h"

static bool is_text(dm_bytes bytes, const char *text)
{
    uint32_t i = 0;
    for (; i < bytes.size && text[i]; i++)
        if (bytes.at[i] != (uint8_t)text[i])
            return false;
    return i == bytes.size && !text[i];
}

/* The first decimal number at or after `from`, in thousandths; false where there is none. */
static bool read_milli(dm_bytes text, uint32_t from, int64_t *value)
{
    uint32_t i = from;
    while (i < text.size && (text.at[i] < '0' || text.at[i] > '9'))
        i++;
    if (i == text.size)
        return false;
    bool negative = i > from && text.at[i - 1] == '-';
    int64_t whole = 0, fraction = 0, scale = 1;
    for (; i < text.size && text.at[i] >= '0' && text.at[i] <= '9' && whole < 1000000000000; i++)
        whole = whole * 10 + (text.at[i] - '0');
    if (i < text.size && text.at[i] == '.')
        for (i++; i < text.size && text.at[i] >= '0' && text.at[i] <= '9' && scale < 1000; i++, scale *= 10)
            fraction = fraction * 10 + (text.at[i] - '0');
    *value = whole * 1000 + fraction * (1000 / scale);
    if (negative)
        *value = -*value;
    return true;
}

/* Where the line that begins with `label` goes on behind it, or the size of the text. */
__attribute__((unused)) static uint32_t find_line(dm_bytes text, const char *label)
{
    for (uint32_t start = 0; start < text.size; start++) {
        if (start && text.at[start - 1] != '\n')
            continue;
        uint32_t i = 0;
        while (label[i] && start + i < text.size && text.at[start + i] == (uint8_t)label[i])
            i++;
        if (!label[i])
            return start + i;
    }
    return text.size;
}

static uint8_t line[256];
static uint32_t line_size;

static void put(const char *text)
{
    for (; *text && line_size < sizeof line; text++)
        line[line_size++] = (uint8_t)*text;
}

static void put_number(int64_t value)
{
    uint8_t digits[20];
    uint32_t count = 0;
    uint64_t rest = value < 0 ? (uint64_t)-value : (uint64_t)value;
    do
        digits[count++] = (uint8_t)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0)
        put("-");
    while (count && line_size < sizeof line)
        line[line_size++] = digits[--count];
}

static void put_milli(int64_t value)
{
    if (value < 0) {
        put("-");
        value = -value;
    }
    put_number(value / 1000);
    put(".");
    put_number(value / 100 % 10);
    put_number(value / 10 % 10);
    put_number(value % 10);
}

static dm_bytes put_end(void)
{
    dm_bytes all = { line, line_size };
    line_size = 0;
    return all;
}

#endif
