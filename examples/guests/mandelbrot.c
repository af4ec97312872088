// mandelbrot WIDTH HEIGHT MAX_ITER: the Mandelbrot set as a binary PGM, in integer arithmetic with 28 fractional bits.
#include "guest.h"

#define ONE ((int64_t)1 << 28)

int main(int argc, char **argv) {
    if (argc != 4) fail(64, "usage: mandelbrot WIDTH HEIGHT MAX_ITER", "");
    int64_t width = (int64_t)number(argv[1]), height = (int64_t)number(argv[2]), limit = (int64_t)number(argv[3]);
    if (width == 0 || height == 0 || limit == 0) fail(64, "no argument may be 0", "");
    out_text("P5\n");
    out_number((uint64_t)width);
    out_text(" ");
    out_number((uint64_t)height);
    out_text("\n255\n");
    for (int64_t row = 0; row < height; row++) {
        int64_t ci = -(ONE * 6 / 5) + ONE * 12 / 5 * row / height;
        for (int64_t column = 0; column < width; column++) {
            int64_t cr = -(ONE * 11 / 5) + ONE * 16 / 5 * column / width;
            int64_t r = 0, i = 0, rr = 0, ii = 0, n = 0;
            while (n < limit && rr + ii <= 4 * ONE) {
                i = (r * i >> 27) + ci;
                r = rr - ii + cr;
                rr = r * r >> 28;
                ii = i * i >> 28;
                n++;
            }
            uint8_t shade = n == limit ? 0 : (uint8_t)(255 - n * 255 / limit);
            out_bytes(&shade, 1);
        }
    }
    out_flush();
    return 0;
}
