/* Sums, differences, products and quotients as LLVM's plain instructions. WAMR makes constrained ones of them all, which no loop of vectors
 * can have and whose order is kept. They are there for one thing: x * 1, x / 1, x + 0 and x - 0 must make a signalling NaN quiet, and LLVM
 * takes them for x. So they stay where an operand is such a constant, or no number. */
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <llvm-c/Core.h>

#define PREFIX "llvm.experimental.constrained.f"

LLVMValueRef pw_plain_float(LLVMBuilderRef builder, const char *intrinsic, va_list operands);

static bool
may_vanish(LLVMValueRef operand)
{
    if (!LLVMIsConstant(operand))
        return false;
    LLVMBool inexact;
    double value = LLVMIsAConstantFP(operand) ? LLVMConstRealGetDouble(operand, &inexact) : 0;
    return value == 0 || value == 1 || value == -1 || value - value != 0;
}

/* The instruction for one of these intrinsics, or NULL where it is to stay. */
LLVMValueRef
pw_plain_float(LLVMBuilderRef builder, const char *intrinsic, va_list operands)
{
    LLVMValueRef left = va_arg(operands, LLVMValueRef), right = va_arg(operands, LLVMValueRef);
    if (may_vanish(left) || may_vanish(right) || strncmp(intrinsic, PREFIX, strlen(PREFIX)) != 0)
        return NULL;
    const char *name = intrinsic + strlen(PREFIX);
    if (strncmp(name, "add.", 4) == 0)
        return LLVMBuildFAdd(builder, left, right, "");
    if (strncmp(name, "sub.", 4) == 0)
        return LLVMBuildFSub(builder, left, right, "");
    if (strncmp(name, "mul.", 4) == 0)
        return LLVMBuildFMul(builder, left, right, "");
    if (strncmp(name, "div.", 4) == 0)
        return LLVMBuildFDiv(builder, left, right, "");
    return NULL;
}
