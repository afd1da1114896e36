/* A grid of triangles in random order: put into an order for a vertex cache, encoded, decoded. */
#include "driver.h"
#include <meshoptimizer.h>
#include <vector>

enum { SIDE = 32 };

extern "C" uint32_t
run(uint32_t times)
{
    uint32_t sum = 0, seed = 11;
    const size_t vertices = (SIDE + 1) * (SIDE + 1), count = SIDE * SIDE * 6;
    for (uint32_t i = 0; i < times; i++) {
        std::vector<unsigned> indices;
        for (unsigned at = 0; at < SIDE * SIDE; at++) {
            unsigned corner = at / SIDE * (SIDE + 1) + at % SIDE, below = corner + SIDE + 1;
            const unsigned both[] = { corner, corner + 1, below, below, corner + 1, below + 1 };
            indices.insert(indices.end(), both, both + 6);
        }
        for (size_t at = count / 3 - 1; at > 0; at--) {
            size_t other = driver_random(&seed) % (at + 1);
            for (int k = 0; k < 3; k++)
                std::swap(indices[at * 3 + k], indices[other * 3 + k]);
        }
        std::vector<unsigned> ordered(count), again(count), remap(vertices);
        meshopt_optimizeVertexCache(ordered.data(), indices.data(), count, vertices);
        sum = driver_mix(sum, static_cast<uint32_t>(meshopt_optimizeVertexFetchRemap(remap.data(), ordered.data(), count, vertices)));
        std::vector<unsigned char> packed(meshopt_encodeIndexBufferBound(count, vertices));
        packed.resize(meshopt_encodeIndexBuffer(packed.data(), packed.size(), ordered.data(), count));
        driver_need(meshopt_decodeIndexBuffer(again.data(), count, packed.data(), packed.size()) == 0);
        std::vector<unsigned char> points(meshopt_encodeVertexBufferBound(vertices, 4));
        points.resize(meshopt_encodeVertexBuffer(points.data(), points.size(), remap.data(), vertices, 4));
        driver_need(meshopt_decodeVertexBuffer(remap.data(), vertices, 4, points.data(), points.size()) == 0);
        sum = driver_sum(driver_sum(sum, again.data(), count), points.data(), points.size());
        sum = driver_sum(driver_sum(sum, packed.data(), packed.size()), remap.data(), 256);
    }
    return sum;
}
