/* What the instructions of opcodes.h do; within the loop of the mended wasm_interp_fast.c (wamr_source.cmake, wamr_fuse_branches).
 * The place of an end by fuel or by an order to stop is that of the branch: frame_ip is behind it. */
            HANDLE_OP(PW_OP_BR)
            {
                frame_ip += sizeof(uint8 *);
                CHECK_SUSPEND_FLAGS();
                frame_ip = (uint8 *)LOAD_PTR(frame_ip - sizeof(uint8 *));
                HANDLE_OP_END();
            }

/* Two jumps to what comes next are two that the processor foresees. */
#define PW_BRANCH_IF(condition, size)                                                                                                  \
    {                                                                                                                                  \
        bool taken = (condition) != 0;                                                                                                 \
        frame_ip += size + sizeof(uint8 *);                                                                                            \
        CHECK_SUSPEND_FLAGS();                                                                                                         \
        if (taken) {                                                                                                                   \
            frame_ip = (uint8 *)LOAD_PTR(frame_ip - sizeof(uint8 *));                                                                  \
            HANDLE_OP_END();                                                                                                           \
        }                                                                                                                              \
        HANDLE_OP_END();                                                                                                               \
    }
            HANDLE_OP(PW_OP_BR_IF)
            PW_BRANCH_IF(GET_OPERAND(uint32, I32, 0), 2)

            HANDLE_OP(PW_OP_BR_IF_I32_EQZ)
            PW_BRANCH_IF(GET_OPERAND(uint32, I32, 0) == 0, 2)

#define PW_BRANCH_HANDLER(name, type, operator)                                                                                        \
    HANDLE_OP(PW_OP_BR_IF_##name)                                                                                                      \
    PW_BRANCH_IF(GET_OPERAND(type, I32, 2) operator GET_OPERAND(type, I32, 0), 4)

            PW_COMPARISONS(PW_BRANCH_HANDLER)
