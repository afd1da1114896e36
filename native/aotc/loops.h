/* Loops in two versions, for native/aotc/vectors.h.
 *
 * A loop that stores must trap in the turn in which it would, with all stored before and nothing behind. Where it can be told before its
 * first turn that none of its accesses traps, LLVM may do with it as it likes: that is one version. The other is held, and runs when that
 * can't be told.
 *
 * A memory never shrinks or moves, so an address within the size that it had before the loop stays so. An address is the memory's, plus what
 * is the same in all turns, plus at most one number that each turn changes by as much: within bounds in the first and the last turn, it is
 * in all of them. */
#include <llvm/Analysis/AssumptionCache.h>
#include <llvm/Analysis/LoopInfo.h>
#include <llvm/Analysis/ScalarEvolution.h>
#include <llvm/Analysis/ScalarEvolutionExpressions.h>
#include <llvm/IR/Dominators.h>
#include <llvm/IR/InlineAsm.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/Transforms/Utils/BasicBlockUtils.h>
#include <llvm/Transforms/Utils/Cloning.h>
#include <llvm/Transforms/Utils/LoopSimplify.h>
#include <llvm/Transforms/Utils/LoopUtils.h>
#include <llvm/Transforms/Utils/ScalarEvolutionExpander.h>

namespace pw {

static const unsigned few_turns = 16;      /* as in vectors.h: no vectors are made of loops of fewer */
static const unsigned most_instructions = 400, most_places = 8;
static const uint64_t address_room = (uint64_t)1 << 36; /* more than any address or offset, and no sum of a few of them overflows */

/* Accesses that differ in a constant only: from the lowest byte to behind the highest. */
struct Place {
    const llvm::SCEV *first, *last; /* without the constant; the same where no turn changes it */
    int64_t from, to;
};

class LoopVersions {
    llvm::Function &function;
    llvm::LoopInfo &loops;
    llvm::DominatorTree &dominators;
    llvm::ScalarEvolution &evolution;
    llvm::AssumptionCache &assumptions;
    llvm::Type *number;

  public:
    LoopVersions(llvm::Function &of, llvm::FunctionAnalysisManager &analyses)
      : function(of)
      , loops(analyses.getResult<llvm::LoopAnalysis>(of))
      , dominators(analyses.getResult<llvm::DominatorTreeAnalysis>(of))
      , evolution(analyses.getResult<llvm::ScalarEvolutionAnalysis>(of))
      , assumptions(analyses.getResult<llvm::AssumptionAnalysis>(of))
      , number(llvm::Type::getInt64Ty(of.getContext()))
    {
    }

    bool
    make()
    {
        bool made = false;
        std::vector<llvm::Loop *> innermost;
        for (llvm::Loop *loop : loops.getLoopsInPreorder())
            if (loop->isInnermost())
                innermost.push_back(loop);
        for (llvm::Loop *loop : innermost)
            made |= version(*loop);
        return made;
    }

  private:
    /* The accesses that may trap; none when the loop has none that stores, or anything else that is seen from outside. */
    static std::vector<llvm::Instruction *>
    accesses(const llvm::Loop &loop)
    {
        std::vector<llvm::Instruction *> found;
        bool stores = false;
        unsigned count = 0;
        for (llvm::BasicBlock *block : loop.blocks())
            for (llvm::Instruction &instruction : *block) {
                if (++count > most_instructions)
                    return {};
                if (llvm::isa<llvm::ConstrainedFPIntrinsic>(instruction) || llvm::isa<llvm::DbgInfoIntrinsic>(instruction))
                    continue;
                auto *load = llvm::dyn_cast<llvm::LoadInst>(&instruction);
                auto *store = llvm::dyn_cast<llvm::StoreInst>(&instruction);
                if ((load && load->isAtomic()) || (store && (store->isAtomic() || !store->isVolatile())))
                    return {};
                if (store || (load && load->isVolatile()))
                    found.push_back(&instruction);
                else if (!load && (instruction.mayReadOrWriteMemory() || instruction.mayHaveSideEffects()))
                    return {};
                stores |= store != nullptr;
            }
        return stores ? found : std::vector<llvm::Instruction *>();
    }

    bool
    is_small(const llvm::SCEV *value)
    {
        llvm::APInt most(64, address_room);
        llvm::ConstantRange range = evolution.getSignedRange(value);
        return range.getSignedMin().sge(-most) && range.getSignedMax().sle(most);
    }

    /* What a number that turns change is in the first one and in the last, in 64 bits; false when it can't be told. LLVM takes it that an access
     * does not overlap with itself in the next turn, which in C it could not: a step is a multiple of the size. */
    bool
    ends(const llvm::SCEV *changing, int64_t size, const llvm::Loop &loop, const llvm::SCEV *turns, const llvm::SCEV *&first,
         const llvm::SCEV *&last)
    {
        auto *wide = llvm::dyn_cast<llvm::SCEVZeroExtendExpr>(changing);
        auto *steps = llvm::dyn_cast<llvm::SCEVAddRecExpr>(wide ? wide->getOperand() : changing);
        if (!steps || steps->getLoop() != &loop || !steps->isAffine() || evolution.getTypeSizeInBits(steps->getType()) != (wide ? 32 : 64))
            return false;
        const llvm::SCEV *start = steps->getStart(), *step = steps->getStepRecurrence(evolution);
        if (wide) {
            start = evolution.getZeroExtendExpr(start, number);
            step = evolution.getSignExtendExpr(step, number);
        }
        auto *known = llvm::dyn_cast<llvm::SCEVConstant>(step);
        int64_t most = (int64_t)1 << 31; /* turns are fewer than 2 to the 32nd: no product overflows */
        int64_t bytes = known ? known->getAPInt().getSExtValue() : 0;
        if (!known || bytes % size != 0 || bytes > most || bytes < -most || !is_small(start))
            return false;
        first = start;
        last = evolution.getAddExpr(start, evolution.getMulExpr(turns, step));
        return true;
    }

    /* Adds where an access goes to the places. A number of 32 bits that changes is one itself: were it to begin anew at 0 or 2 to the 32nd, its last
     * value would not be what was reckoned. */
    bool
    add(std::vector<Place> &places, llvm::Instruction &access, const llvm::Loop &loop, const llvm::SCEV *turns, llvm::LoadInst *&memory)
    {
        const llvm::SCEV *pointer = evolution.getSCEV(llvm::getLoadStorePointerOperand(&access));
        auto *unknown = llvm::dyn_cast<llvm::SCEVUnknown>(evolution.getPointerBase(pointer));
        llvm::Value *found = unknown ? unknown->getValue() : nullptr;
        if (auto *cast = llvm::dyn_cast_or_null<llvm::IntToPtrInst>(found))
            found = cast->getOperand(0);
        auto *base = llvm::dyn_cast_or_null<llvm::LoadInst>(found);
        if (!base || !is_memory(*base) || loop.contains(base) || (memory && memory != base))
            return false;
        const llvm::SCEV *offset = evolution.getMinusSCEV(pointer, unknown);
        if (llvm::isa<llvm::SCEVCouldNotCompute>(offset) || offset->getType() != number)
            return false;
        int64_t size = (int64_t)function.getParent()->getDataLayout().getTypeStoreSize(llvm::getLoadStoreType(&access)).getFixedValue();
        std::vector<const llvm::SCEV *> terms = { offset };
        if (auto *sum = llvm::dyn_cast<llvm::SCEVAddExpr>(offset))
            terms.assign(sum->operands().begin(), sum->operands().end());
        if (terms.size() > 4)
            return false;
        int64_t constant = 0;
        const llvm::SCEV *fixed = evolution.getZero(number), *first = nullptr, *last = nullptr;
        for (const llvm::SCEV *term : terms) {
            if (auto *known = llvm::dyn_cast<llvm::SCEVConstant>(term)) {
                if (!is_small(known))
                    return false;
                constant += known->getAPInt().getSExtValue();
            }
            else if (evolution.isLoopInvariant(term, const_cast<llvm::Loop *>(&loop))) {
                if (!is_small(term))
                    return false;
                fixed = evolution.getAddExpr(fixed, term);
            }
            else if (first || !ends(term, size, loop, turns, first, last))
                return false;
            else if (llvm::isa<llvm::SCEVZeroExtendExpr>(term))
                widen(places, first, last, 0, 1);
        }
        if (first) {
            first = evolution.getAddExpr(fixed, first);
            last = evolution.getAddExpr(fixed, last);
        }
        else
            first = last = fixed;
        widen(places, first, last, constant, constant + size);
        memory = base;
        return places.size() <= most_places;
    }

    /* Whether this loads the address of the memory, from where the runtime keeps it. */
    bool
    is_memory(const llvm::LoadInst &load)
    {
        llvm::APInt offset(64, 0);
        const llvm::Value *from = load.getPointerOperand()->stripAndAccumulateInBoundsConstantOffsets(function.getParent()->getDataLayout(), offset);
        if (auto *cast = llvm::dyn_cast<llvm::IntToPtrInst>(from))
            from = cast->getOperand(0);
        return !load.isVolatile() && llvm::isa<llvm::LoadInst>(from)
               && offset == offsetof(AOTModuleInstance, global_table_data) + offsetof(AOTMemoryInstance, memory_data);
    }

    static void
    widen(std::vector<Place> &places, const llvm::SCEV *first, const llvm::SCEV *last, int64_t from, int64_t to)
    {
        for (Place &place : places) {
            if (place.first == first && place.last == last) {
                place.from = std::min(place.from, from);
                place.to = std::max(place.to, to);
                return;
            }
        }
        places.push_back({ first, last, from, to });
    }

    /* The memory's size lies where the runtime keeps its address, at a distance that both of 64 bits know. */
    static llvm::Value *
    size_of(llvm::LoadInst &memory, llvm::IRBuilder<> &builder)
    {
        llvm::Value *where = memory.getPointerOperand();
        int64_t distance = (int64_t)offsetof(AOTMemoryInstance, memory_data_size) - (int64_t)offsetof(AOTMemoryInstance, memory_data);
        unsigned space = where->getType()->getPointerAddressSpace();
        auto *byte = llvm::Type::getInt8Ty(builder.getContext());
        where = builder.CreateBitCast(where, llvm::PointerType::get(byte, space));
        where = builder.CreateGEP(byte, where, builder.getInt64((uint64_t)distance));
        where = builder.CreateBitCast(where, llvm::PointerType::get(builder.getInt64Ty(), space));
        return builder.CreateLoad(builder.getInt64Ty(), where, "memory_size");
    }

    /* Whether all places are within bounds in the first turn and in the last. */
    llvm::Value *
    check(const std::vector<Place> &places, llvm::LoadInst &memory, llvm::Instruction *before)
    {
        llvm::SCEVExpander expander(evolution, function.getParent()->getDataLayout(), "bounds");
        for (const Place &place : places) {
#if LLVM_VERSION_MAJOR >= 15
            if (!expander.isSafeToExpandAt(place.first, before) || !expander.isSafeToExpandAt(place.last, before))
                return nullptr;
#else
            if (!llvm::isSafeToExpandAt(place.first, before, evolution) || !llvm::isSafeToExpandAt(place.last, before, evolution))
                return nullptr;
#endif
        }
        llvm::IRBuilder<> builder(before);
        llvm::Value *size = size_of(memory, builder), *good = builder.getTrue();
        for (const Place &place : places)
            for (const llvm::SCEV *end : { place.first, place.last }) {
                llvm::Value *at = expander.expandCodeFor(end, number, before);
                builder.SetInsertPoint(before);
                llvm::Value *from = builder.CreateAdd(at, builder.getInt64((uint64_t)place.from));
                llvm::Value *to = builder.CreateAdd(at, builder.getInt64((uint64_t)place.to));
                good = builder.CreateAnd(good, builder.CreateICmpSGE(from, builder.getInt64(0)));
                good = builder.CreateAnd(good, builder.CreateICmpSLE(to, size));
                if (place.first == place.last)
                    break;
            }
        return good;
    }

    /* Nothing, for the processor. For LLVM, something that looks at all of memory and may not come back: no store crosses it. */
    static void
    keep_order(llvm::Instruction *before)
    {
        auto *type = llvm::FunctionType::get(llvm::Type::getVoidTy(before->getContext()), false);
        auto *call = llvm::CallInst::Create(type, llvm::InlineAsm::get(type, "", "", true), "", before);
        call->setOnlyReadsMemory();
        call->setDoesNotThrow();
    }

    /* How often the loop jumps back, in 64 bits; null when that can't be told or is too often. */
    const llvm::SCEV *
    turns_of(const llvm::Loop &loop)
    {
        const llvm::SCEV *turns = evolution.getBackedgeTakenCount(&loop);
        unsigned most = evolution.getSmallConstantMaxTripCount(&loop);
        if (llvm::isa<llvm::SCEVCouldNotCompute>(turns) || (most > 0 && most < few_turns))
            return nullptr;
        if (evolution.getTypeSizeInBits(turns->getType()) > 64
            || evolution.getUnsignedRangeMax(turns).getActiveBits() > 32)
            return nullptr;
        return evolution.getTruncateOrZeroExtend(turns, number);
    }

    bool
    version(llvm::Loop &loop)
    {
        std::vector<llvm::Instruction *> found = accesses(loop);
        if (found.empty())
            return false;
        llvm::simplifyLoop(&loop, &dominators, &loops, &evolution, &assumptions, nullptr, false);
        llvm::formLCSSA(loop, dominators, &loops, &evolution);
        llvm::BasicBlock *latch = loop.getLoopLatch(), *exit = loop.getUniqueExitBlock(), *before = loop.getLoopPreheader();
        if (!latch || !exit || !before || latch != loop.getExitingBlock() || exit->getUniquePredecessor() != latch)
            return false;
        const llvm::SCEV *turns = turns_of(loop);
        if (!turns)
            return false;
        std::vector<Place> places;
        llvm::LoadInst *memory = nullptr;
        for (llvm::Instruction *access : found)
            if (!add(places, *access, loop, turns, memory))
                return false;
        llvm::Value *good = check(places, *memory, before->getTerminator());
        if (!good)
            return false;
        split(loop, good);
        for (llvm::Instruction *access : found) {
            if (auto *load = llvm::dyn_cast<llvm::LoadInst>(access))
                load->setVolatile(false);
            else
                llvm::cast<llvm::StoreInst>(access)->setVolatile(false);
        }
        return true;
    }

    /* The loop where it is good, a copy of it where not. */
    void
    split(llvm::Loop &loop, llvm::Value *good)
    {
        llvm::BasicBlock *latch = loop.getLoopLatch(), *exit = loop.getUniqueExitBlock(), *choice = loop.getLoopPreheader();
        llvm::BasicBlock *before = llvm::SplitBlock(choice, choice->getTerminator(), &dominators, &loops);
        llvm::ValueToValueMapTy copies;
        llvm::SmallVector<llvm::BasicBlock *, 8> blocks;
        llvm::Loop *held = llvm::cloneLoopWithPreheader(before, choice, &loop, copies, ".held", &loops, &dominators, blocks);
        llvm::remapInstructionsInBlocks(blocks, copies);
        llvm::ReplaceInstWithInst(choice->getTerminator(), llvm::BranchInst::Create(before, held->getLoopPreheader(), good));
        auto *end = llvm::cast<llvm::BasicBlock>(copies[latch]);
        for (llvm::PHINode &phi : exit->phis()) {
            llvm::Value *value = phi.getIncomingValueForBlock(latch);
            auto copy = copies.find(value);
            phi.addIncoming(copy == copies.end() ? value : static_cast<llvm::Value *>(copy->second), end);
        }
        dominators.changeImmediateDominator(exit, choice);
        keep_order(before->getTerminator());
        keep_order(llvm::SplitEdge(latch, exit, &dominators, &loops)->getTerminator());
        evolution.forgetLoop(&loop);
    }
};

static bool
version_loops(llvm::Function &function, llvm::FunctionAnalysisManager &analyses)
{
    return LoopVersions(function, analyses).make();
}

} // namespace pw
