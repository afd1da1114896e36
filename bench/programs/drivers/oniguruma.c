/* Looks for four patterns in 16 kB of text, in UTF-8. */
#include "driver.h"
#include <oniguruma.h>

enum { SIZE = 16384 };

static uint32_t
search(const char *pattern, const UChar *text, uint32_t sum)
{
    regex_t *expression;
    OnigErrorInfo error;
    const UChar *end = text + SIZE, *at = text;
    OnigRegion *region = onig_region_new();
    driver_need(onig_new(&expression, (const UChar *)pattern, (const UChar *)pattern + strlen(pattern), ONIG_OPTION_DEFAULT, ONIG_ENCODING_UTF8,
                         ONIG_SYNTAX_DEFAULT, &error)
                == ONIG_NORMAL);
    while (at < end && onig_search(expression, text, end, at, end, region, ONIG_OPTION_NONE) >= 0) {
        sum = driver_mix(driver_mix(sum, (uint32_t)region->beg[0]), (uint32_t)region->end[region->num_regs - 1]);
        at = text + region->end[0] + (region->end[0] == region->beg[0]);
    }
    onig_region_free(region, 1);
    onig_free(expression);
    return sum;
}

uint32_t
run(uint32_t times)
{
    UChar *text = malloc(SIZE);
    OnigEncoding encoding = ONIG_ENCODING_UTF8;
    uint32_t sum = 0;
    driver_text((char *)text, SIZE, 6);
    driver_need(onig_initialize(&encoding, 1) == ONIG_NORMAL);
    for (uint32_t i = 0; i < times; i++) {
        sum = search("(sensor|pump|valve) (\\d+)", text, sum);
        sum = search("[a-z]+=\\d{2,4}\\b", text, sum);
        sum = search("(?i)ERROR: (?<what>\\w+)(?=.*lost)", text, sum);
        sum = search("\\b(\\w)\\w*\\1\\b", text, sum);
    }
    free(text);
    return sum;
}
