/* Before what TensorFlow Lite Micro includes of FlatBuffers: a template of that version, never used, assigns an object whose assignment is
 * deleted, which clang refuses since it looks into such templates. Declared and not deleted will do. */
#ifdef __cplusplus
#include <flatbuffers/base.h>
#undef FLATBUFFERS_DELETE_FUNC
#define FLATBUFFERS_DELETE_FUNC(func) \
  public:                             \
    func;
#endif
