/* What a neural network of int8 hears in a second of sound: the model "micro speech", with the two samples that come with it. */
#include "driver.h"
#include <tensorflow/lite/micro/kernels/all_ops_resolver.h>
#include <tensorflow/lite/micro/micro_error_reporter.h>
#include <tensorflow/lite/micro/micro_interpreter.h>
#include <tensorflow/lite/schema/schema_generated.h>

extern "C" {
#include "model.h"
}

extern "C" void
DebugLog(const char *text)
{
    (void)text;
}

extern "C" uint32_t
run(uint32_t times)
{
    alignas(16) static uint8_t arena[32768];
    static const unsigned char *const samples[] = { yes_sample, no_sample };
    tflite::MicroErrorReporter reporter;
    tflite::ops::micro::AllOpsResolver operations;
    tflite::MicroInterpreter network(tflite::GetModel(speech_model), operations, arena, sizeof arena, &reporter);
    uint32_t sum = 0;
    driver_need(network.AllocateTensors() == kTfLiteOk);
    TfLiteTensor *in = network.input(0), *out = network.output(0);
    driver_need(in->bytes <= yes_sample_size && in->bytes <= no_sample_size);
    for (uint32_t i = 0; i < times; i++) {
        memcpy(in->data.raw, samples[i % 2], in->bytes);
        in->data.raw[i % in->bytes] ^= 1;
        driver_need(network.Invoke() == kTfLiteOk);
        sum = driver_sum(sum, out->data.raw, out->bytes);
    }
    return sum;
}
