/* Writes a document of 300 records, reads it, walks it. */
#include "driver.h"
#include <yyjson.h>

uint32_t
run(uint32_t times)
{
    uint32_t sum = 0, seed = 9;
    for (uint32_t i = 0; i < times; i++) {
        yyjson_mut_doc *made = yyjson_mut_doc_new(NULL);
        yyjson_mut_val *list = yyjson_mut_arr(made);
        yyjson_mut_doc_set_root(made, list);
        for (int each = 0; each < 300; each++) {
            char text[32];
            uint32_t roll = driver_random(&seed);
            yyjson_mut_val *record = yyjson_mut_arr_add_obj(made, list);
            snprintf(text, sizeof text, "board-%u \"\n", (unsigned)(roll % 1000));
            yyjson_mut_obj_add_strcpy(made, record, "board", text);
            yyjson_mut_obj_add_uint(made, record, "count", roll);
            yyjson_mut_obj_add_real(made, record, "value", (double)(roll >> 8) / 1000.0);
            yyjson_mut_obj_add_bool(made, record, "ok", roll & 1);
        }
        size_t size, at, count;
        char *text = yyjson_mut_write(made, YYJSON_WRITE_PRETTY, &size);
        yyjson_mut_doc_free(made);
        yyjson_doc *read = yyjson_read(text, size, 0);
        driver_need(read != NULL);
        yyjson_val *record;
        yyjson_arr_foreach(yyjson_doc_get_root(read), at, count, record)
        {
            yyjson_val *board = yyjson_obj_get(record, "board");
            sum = driver_sum(sum, yyjson_get_str(board), yyjson_get_len(board));
            sum = driver_mix(sum, (uint32_t)yyjson_get_uint(yyjson_obj_get(record, "count")));
            sum = driver_mix(sum, (uint32_t)(yyjson_get_real(yyjson_obj_get(record, "value")) * 1000.0 + 0.5));
        }
        sum = driver_mix(sum, (uint32_t)size);
        yyjson_doc_free(read);
        free(text);
    }
    return sum;
}
