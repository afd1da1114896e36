/* Instructions of the fast interpreter that no module has: the loader makes them of two (fuse.h), or of a branch that takes no values
 * along. Their places in code: those of both, without those of what only goes from one to the other, then where a branch goes. */
#pragma once

/* Comparisons of 32 bits that a branch may follow: name, type, operator; eqz has one operand. */
#define PW_COMPARISONS(X)                                                                                                              \
    X(I32_EQ, uint32, ==)                                                                                                              \
    X(I32_NE, uint32, !=)                                                                                                              \
    X(I32_LT_S, int32, <)                                                                                                              \
    X(I32_LT_U, uint32, <)                                                                                                             \
    X(I32_GT_S, int32, >)                                                                                                              \
    X(I32_GT_U, uint32, >)                                                                                                             \
    X(I32_LE_S, int32, <=)                                                                                                             \
    X(I32_LE_U, uint32, <=)                                                                                                            \
    X(I32_GE_S, int32, >=)                                                                                                             \
    X(I32_GE_U, uint32, >=)                                                                                                            \
    X(I32_AND, uint32, &)

#define PW_BRANCH_OPCODE(name, type, operator) PW_OP_BR_IF_##name,

enum {
    PW_OP_BR = 256, /* the first that is no byte */
    PW_OP_BR_IF,
    PW_OP_BR_IF_I32_EQZ,
    PW_COMPARISONS(PW_BRANCH_OPCODE) PW_OP_END
};
