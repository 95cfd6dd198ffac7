"""Every sentence that a volunteer reads, in English and Korean."""

from ml.protocol import DeviceState, Reason

Both = tuple[str, str]
"""English, Korean."""

REASONS: dict[Reason, Both] = {
    Reason.OFFER_EXPIRED: ("the offer was not claimed in time", "제안된 작업을 제때 받지 못했습니다"),
    Reason.LEASE_EXPIRED: (
        "the coordinator heard nothing from this device for too long and gave the work to another one",
        "서버가 이 기기의 신호를 오래 받지 못해 작업을 다른 기기에 넘겼습니다",
    ),
    Reason.RELEASED: ("this device gave the work back", "이 기기가 작업을 돌려주었습니다"),
    Reason.CLIENT_ERROR: ("this device could not do the work", "이 기기에서 작업을 수행하지 못했습니다"),
    Reason.CANCELLED: ("the coordinator cancelled the work", "서버가 작업을 취소했습니다"),
    Reason.ROUND_SPENT: (
        "the round has paid out all the credits it may; other devices did this work meanwhile",
        "이 라운드가 줄 수 있는 크레딧을 모두 지급했습니다. 그사이 다른 기기가 이 일을 했습니다",
    ),
    Reason.DELTA_LOST: (
        "the coordinator lost the uploaded result; nothing is wrong with this device",
        "서버가 올린 결과를 잃어버렸습니다. 이 기기의 문제는 아닙니다",
    ),
    Reason.TOO_LATE: (
        "the result came after its round had closed, too late to be merged",
        "라운드가 끝난 뒤에 도착하여 결과를 합칠 수 없었습니다",
    ),
    Reason.WRONG_SIZE: (
        "the uploaded file does not have the announced size",
        "올린 파일의 크기가 알린 크기와 다릅니다",
    ),
    Reason.TOO_LARGE: (
        "the uploaded file is larger than the model allows",
        "올린 파일이 모델이 허용하는 크기보다 큽니다",
    ),
    Reason.WRONG_HASH: ("the uploaded file was damaged on the way", "올린 파일이 전송 중에 손상되었습니다"),
    Reason.MALFORMED: ("the uploaded file is not valid safetensors", "올린 파일이 올바른 safetensors 형식이 아닙니다"),
    Reason.WRONG_TENSORS: ("the result does not have this model's tensors", "결과의 텐서가 이 모델과 맞지 않습니다"),
    Reason.WRONG_METADATA: ("the result belongs to another job", "결과가 다른 작업의 것입니다"),
    Reason.WRONG_BASE: ("the result starts from another checkpoint", "결과가 다른 체크포인트에서 시작되었습니다"),
    Reason.NOT_FINITE: (
        "the result holds values that are not numbers; training diverged",
        "결과에 숫자가 아닌 값이 있습니다. 학습이 발산했습니다",
    ),
    Reason.NORM_OUT_OF_BOUNDS: (
        "the result is far larger or smaller than expected",
        "결과의 크기가 예상 범위를 벗어났습니다",
    ),
    Reason.TOO_MANY_TOKENS: (
        "the result claims more tokens than the job had",
        "결과의 토큰 수가 작업의 토큰 수보다 많습니다",
    ),
    Reason.NO_TOKENS: ("the result holds no trained tokens", "학습한 토큰이 없는 결과입니다"),
    Reason.NO_EXPERIMENT: (
        "no experiment is running; work comes when the operator starts one",
        "진행 중인 실험이 없습니다. 운영자가 실험을 시작하면 작업이 옵니다",
    ),
    Reason.EXPERIMENT_PAUSED: ("the experiment is paused by its operator", "운영자가 실험을 잠시 멈추었습니다"),
    Reason.EXPERIMENT_FINISHED: (
        "the experiment is finished; join another one with --experiment",
        "실험이 끝났습니다. --experiment 옵션으로 다른 실험에 참여하십시오",
    ),
    Reason.EXPERIMENT_PREPARING: ("the experiment is being prepared", "실험을 준비하고 있습니다"),
    Reason.ROUND_FULL: (
        "all work of this round is with other devices; the next round brings more",
        "이번 라운드의 작업은 모두 배정되었습니다. 다음 라운드에 새 작업이 옵니다",
    ),
    Reason.ROUND_CLOSING: (
        "the coordinator is merging the round; the next one follows",
        "서버가 라운드를 합치고 있습니다. 곧 다음 라운드가 시작됩니다",
    ),
    Reason.SPEED_UNKNOWN: ("this device's speed has to be measured first", "먼저 이 기기의 속도를 재야 합니다"),
    Reason.TOO_MANY_FAULTS: (
        "this device failed several times in a row and rests for a while",
        "이 기기에서 연달아 실패하여 잠시 쉽니다",
    ),
    Reason.OFFER_PENDING: ("work is on its way", "작업이 오고 있습니다"),
    Reason.UPGRADE_NEEDED: (
        "the coordinator speaks a newer protocol; upgrade this program as its Join page says",
        "서버의 프로토콜이 더 새롭습니다. 서버의 참여 페이지에 나온 대로 이 프로그램을 업그레이드하십시오",
    ),
    Reason.BANNED: ("the operator has excluded this contributor", "운영자가 이 참여자를 제외했습니다"),
}

STATES: dict[DeviceState, Both] = {
    DeviceState.IDLE: ("idle", "대기 중"),
    DeviceState.MEASURING: ("measuring speed", "속도 측정 중"),
    DeviceState.DOWNLOADING: ("downloading", "내려받는 중"),
    DeviceState.TRAINING: ("training", "학습 중"),
    DeviceState.UPLOADING: ("handing in", "결과 제출 중"),
    DeviceState.LEAVING: ("leaving", "나가는 중"),
}

SENTENCES: dict[str, Both] = {
    # Why the program ends.
    "not_joined": (
        "No key is stored for a coordinator: run fai join {url} --name NAME, or set FAI_SERVER_URL and FAI_API_KEY.",
        "저장된 키가 없습니다. fai join {url} --name 이름 을 실행하거나 FAI_SERVER_URL과 FAI_API_KEY를 설정하십시오.",
    ),
    "bad_url": (
        "{url!r} is no address of a coordinator; it looks like https://fai.example.org.",
        "{url!r}은(는) 서버 주소가 아닙니다. https://fai.example.org 와 같은 주소를 쓰십시오.",
    ),
    "bad_number": (
        "{name} must be a whole number above 0, not {value!r}.",
        "{name}은(는) 0보다 큰 정수여야 합니다. {value!r}은(는) 쓸 수 없습니다.",
    ),
    "bad_language": (
        "The language must be en or ko, not {value!r}.",
        "언어는 en 또는 ko여야 합니다. {value!r}은(는) 쓸 수 없습니다.",
    ),
    "config_unreadable": (
        "{path} cannot be read ({why}); mend or delete it, then join again.",
        "{path} 파일을 읽을 수 없습니다({why}). 고치거나 지운 뒤 다시 참여하십시오.",
    ),
    "config_unwritable": (
        "{path} cannot be written ({why}); free some space, or set FAI_CONFIG_DIR to another folder of yours.",
        "{path} 파일을 쓸 수 없습니다({why}). 공간을 비우거나 FAI_CONFIG_DIR을 쓸 수 있는 다른 폴더로 설정하십시오.",
    ),
    "cache_unwritable": (
        "{path} cannot be written ({why}); set FAI_CACHE_DIR to a folder of yours.",
        "{path}에 쓸 수 없습니다({why}). FAI_CACHE_DIR을 쓸 수 있는 폴더로 설정하십시오.",
    ),
    "wrong_url": (
        "{url} is no FAI coordinator ({why}); check the address.",
        "{url}은(는) FAI 서버가 아닙니다({why}). 주소를 확인하십시오.",
    ),
    "unreachable": (
        "{url} cannot be reached ({why}); check the address and the network.",
        "{url}에 연결할 수 없습니다({why}). 주소와 네트워크를 확인하십시오.",
    ),
    "unable": (
        "{url} cannot do this at the moment ({why}); try again later, or tell its operator.",
        "{url} 서버가 지금은 처리할 수 없습니다({why}). 나중에 다시 시도하거나 운영자에게 알려 주십시오.",
    ),
    "other_protocol": (
        "{url} speaks protocol {theirs}, this program {ours}; "
        "upgrade this program as {url}/join/ says, or ask the operator to upgrade.",
        "{url}의 프로토콜은 {theirs}, 이 프로그램은 {ours}입니다. "
        "{url}/ko/join/ 에 나온 대로 이 프로그램을 업그레이드하거나 운영자에게 업그레이드를 요청하십시오.",
    ),
    "key_refused": (
        "The coordinator refuses this key ({why}); ask its operator, or join again under another name.",
        "서버가 이 키를 거부했습니다({why}). 운영자에게 문의하거나 다른 이름으로 다시 참여하십시오.",
    ),
    "refused": ("The coordinator refuses: {why}", "서버가 거부했습니다: {why}"),
    "name_missing": ("Say who you are with --name NAME.", "--name 옵션으로 이름을 알려 주십시오."),
    "other_name": (
        "You have joined {url} as {nickname} already; set FAI_CONFIG_DIR to another folder to join as somebody else.",
        "이미 {nickname}(으)로 {url}에 참여했습니다. 다른 이름을 쓰려면 FAI_CONFIG_DIR을 다른 폴더로 설정하십시오.",
    ),
    "experiment_unknown": (
        "{url} has no experiment {experiment!r}; it has: {known}.",
        "{url}에 {experiment!r} 실험이 없습니다. 있는 실험: {known}.",
    ),
    "experiment_finished": (
        "The experiment {experiment!r} is finished; choose another one with --experiment: {known}.",
        "{experiment!r} 실험은 끝났습니다. --experiment 옵션으로 다른 실험을 고르십시오: {known}.",
    ),
    "already_running": (
        "A worker of yours already runs as device {device!r}; stop it, or give this one another name with --device.",
        "{device!r} 기기의 작업자가 이미 실행 중입니다. 그것을 끄거나 --device 옵션으로 다른 이름을 쓰십시오.",
    ),
    "disk_full": (
        "The disk is full: {path} needs {needed_mb} MB more; free some space, or set FAI_CACHE_DIR to another disk.",
        "디스크가 가득 찼습니다. {path}에 {needed_mb}MB가 더 필요합니다. "
        "공간을 비우거나 FAI_CACHE_DIR을 다른 디스크로 설정하십시오.",
    ),
    "too_small": (
        "This model does not fit into the memory of this machine, even one row at a time; choose a smaller experiment.",
        "이 모델은 한 번에 한 문장씩 학습해도 이 컴퓨터의 메모리에 들어가지 않습니다. 더 작은 실험을 고르십시오.",
    ),
    "damaged_download": (
        "What the coordinator sends as {sha256} has another sha256, twice over; tell its operator.",
        "서버가 보낸 {sha256} 파일의 sha256이 두 번 연속 다릅니다. 운영자에게 알려 주십시오.",
    ),
    "server_missing": (
        "Say which coordinator with --server URL.",
        "--server 주소 옵션으로 서버를 알려 주십시오.",
    ),
    "round_unknown": (
        "{experiment} has no round {round}; its newest is {newest}.",
        "{experiment} 실험에 {round}라운드가 없습니다. 가장 최근은 {newest}라운드입니다.",
    ),
    "round_unmerged": (
        "Round {round} of {experiment} is not merged ({state}); choose one that is.",
        "{experiment} {round}라운드는 합쳐지지 않았습니다({state}). 합쳐진 라운드를 고르십시오.",
    ),
    "files_gone": (
        "{url} no longer keeps {name} ({sha256}); choose a newer round.",
        "{url} 서버에 {name} 파일({sha256})이 더는 없습니다. 더 최근 라운드를 고르십시오.",
    ),
    "verify_busy": (
        "Another fai verify is running in {path}; wait until it has ended.",
        "다른 fai verify가 {path}에서 실행 중입니다. 끝난 뒤에 다시 실행하십시오.",
    ),
    # What happens meanwhile.
    "joined": ("Joined {url} as {nickname}.", "{nickname}(으)로 {url}에 참여했습니다."),
    "key_shown_once": (
        "Your API key, shown this once and stored in {path}: {api_key}",
        "API 키입니다. 지금 한 번만 표시되며 {path}에 저장했습니다: {api_key}",
    ),
    "next_step": ("Start with: celery -A fai worker", "다음 명령으로 시작하십시오: celery -A fai worker"),
    "already_joined": ("Already joined {url} as {nickname}.", "이미 {nickname}(으)로 {url}에 참여했습니다."),
    "registered": (
        "Device {device!r} is known to {url} as number {device_id}.",
        "{device!r} 기기가 {url}에 {device_id}번으로 등록되었습니다.",
    ),
    "coordinator_away": (
        "The coordinator cannot be reached ({why}); nothing is lost, trying again in {seconds:.0f} s.",
        "서버에 연결할 수 없습니다({why}). 잃는 것은 없습니다. {seconds:.0f}초 뒤에 다시 시도합니다.",
    ),
    "coordinator_back": ("The coordinator is back.", "서버에 다시 연결되었습니다."),
    "broker_away": (
        "The coordinator's Redis cannot be reached ({why}); trying again in {seconds:.0f} s.",
        "서버의 Redis에 연결할 수 없습니다({why}). {seconds:.0f}초 뒤에 다시 시도합니다.",
    ),
    "broker_refused": (
        "Redis no longer knows this device; registering again.",
        "Redis가 이 기기를 알지 못합니다. 다시 등록합니다.",
    ),
    "waiting_for_work": ("Connected; waiting for work.", "연결되었습니다. 작업을 기다립니다."),
    "consumer_restarted": (
        "An offer waits, but its message did not come; reconnecting to Redis.",
        "제안된 작업이 있지만 메시지가 오지 않았습니다. Redis에 다시 연결합니다.",
    ),
    "measuring": ("Measuring the speed on experiment {experiment}.", "{experiment} 실험에서의 속도를 측정합니다."),
    "measured": (
        "{tokens_per_second:,.0f} tokens/s with {micro_batch} sequences at a time.",
        "초당 {tokens_per_second:,.0f}토큰, 한 번에 {micro_batch}개 시퀀스.",
    ),
    "offer_gone": ("The offer is gone: {reason}.", "제안된 작업이 없어졌습니다: {reason}."),
    "claimed": (
        "{experiment}, round {round}: {tokens:,} tokens to train, worth {credits:,} credits.",
        "{experiment} {round}라운드: {tokens:,}토큰 학습, {credits:,}크레딧.",
    ),
    "upload_size": (
        "Its result takes {upload_bytes} to upload; a whole checkpoint has {whole_bytes}.",
        "올릴 결과의 크기는 {upload_bytes}이고, 체크포인트 전체는 {whole_bytes}입니다.",
    ),
    "base_from_steps": (
        "Brought the model up to date with {steps_bytes}; that saved {saved_bytes}.",
        "{steps_bytes}만 내려받아 모델을 갱신했습니다. 아낀 양은 {saved_bytes}입니다.",
    ),
    "steps_useless": (
        "The update of the model cannot be used ({why}); downloading the whole model.",
        "모델의 갱신 파일을 쓸 수 없습니다({why}). 모델 전체를 내려받습니다.",
    ),
    "time_over": (
        "The {seconds:,} s of this job are over; handing in what is done.",
        "이 작업에 주어진 {seconds:,}초가 지났습니다. 지금까지의 결과를 제출합니다.",
    ),
    "put_back": (
        "What attempt {attempt_id} held goes out with this device's next result.",
        "{attempt_id}번 시도의 내용은 이 기기의 다음 결과에 담아 보냅니다.",
    ),
    "not_kept": (
        "What this device keeps for its next job cannot be stored ({why}); it goes on without.",
        "다음 작업에 쓸 내용을 저장할 수 없습니다({why}). 그대로 계속합니다.",
    ),
    "step": (
        "Trained {tokens:,} of {budget:,} tokens, loss {loss:.3f}.",
        "{budget:,}토큰 중 {tokens:,}토큰 학습, 손실 {loss:.3f}.",
    ),
    "trained": (
        "Trained {tokens:,} tokens; handing in {upload_bytes}.",
        "{tokens:,}토큰을 학습했습니다. 결과 {upload_bytes}를 제출합니다.",
    ),
    "handed_in": ("Handed in; the coordinator checks it.", "제출했습니다. 서버가 확인합니다."),
    "accepted": (
        "Accepted: {tokens:,} tokens, {credits:,} credits.",
        "승인되었습니다: {tokens:,}토큰, {credits:,}크레딧.",
    ),
    "not_accepted": (
        "Attempt {attempt_id} did not count: {reason}.",
        "{attempt_id}번 시도는 인정되지 않았습니다: {reason}.",
    ),
    "cancelled": ("Stopped attempt {attempt_id}: {reason}.", "{attempt_id}번 시도를 멈추었습니다: {reason}."),
    "diverged": ("Training diverged: {detail}", "학습이 발산했습니다: {detail}"),
    "job_impossible": ("This job cannot be done: {detail}", "이 작업을 할 수 없습니다: {detail}"),
    "leftover": ("Handing in attempt {attempt_id}, finished earlier.", "전에 끝낸 {attempt_id}번 시도를 제출합니다."),
    "leftover_dropped": (
        "Attempt {attempt_id}, finished earlier, is no longer wanted: {reason}.",
        "전에 끝낸 {attempt_id}번 시도는 더 이상 필요하지 않습니다: {reason}.",
    ),
    "kept": (
        "The finished work stays in {path} and is handed in at the next start.",
        "끝낸 작업은 {path}에 남아 있으며 다음에 시작할 때 제출됩니다.",
    ),
    "finishing": (
        "Finishing this step and handing in what is done; Ctrl+C again gives the work back at once.",
        "이번 단계를 마치고 지금까지의 결과를 제출합니다. Ctrl+C를 한 번 더 누르면 작업을 바로 돌려줍니다.",
    ),
    "leaving_idle": ("Leaving.", "나갑니다."),
    "released": ("Gave attempt {attempt_id} back.", "{attempt_id}번 시도를 돌려주었습니다."),
    "not_released": (
        "Could not tell the coordinator; attempt {attempt_id} goes to another device when its lease runs out.",
        "서버에 알리지 못했습니다. {attempt_id}번 시도는 기한이 지나면 다른 기기로 넘어갑니다.",
    ),
    "goodbye": ("Goodbye, and thank you.", "안녕히 가십시오. 고맙습니다."),
    "trouble": ("{text}", "{text}"),
    # fai verify.
    "verify_downloading": (
        "Downloading {num_files} files, {size_bytes}.",
        "파일 {num_files}개({size_bytes})를 내려받습니다.",
    ),
    "verify_merging": (
        "Merging {num_deltas} deltas of round {round} again.",
        "{round}라운드의 델타 {num_deltas}개를 다시 합칩니다.",
    ),
    "verify_equal": (
        "Equal: round {round} of {experiment} gives checkpoint {sha256} again, byte for byte.",
        "같습니다. {experiment} {round}라운드에서 체크포인트 {sha256}이(가) 바이트까지 똑같이 다시 나옵니다.",
    ),
    "verify_different": (
        "Not equal: round {round} of {experiment} does not give its checkpoint again.",
        "다릅니다. {experiment} {round}라운드에서 같은 체크포인트가 나오지 않습니다.",
    ),
    "file_manifest": ("the manifest", "매니페스트"),
    "file_base": ("the base", "시작 체크포인트"),
    "file_state": ("the outer state", "외부 옵티마이저 상태"),
    "file_delta": ("the delta of attempt {attempt_id}", "{attempt_id}번 시도의 델타"),
    # Words of the live view and of fai status.
    "credits_line": (
        "credits: {available:,} available, {escrow:,} in escrow, {pending:,} pending",
        "크레딧: 사용 가능 {available:,}, 보류 {escrow:,}, 예정 {pending:,}",
    ),
    "quoted": ("worth {credits:,} credits", "{credits:,}크레딧"),
    "round": ("{experiment}, round {round}", "{experiment} {round}라운드"),
    "progress": ("{tokens:,} / {budget:,} tokens", "{tokens:,} / {budget:,}토큰"),
    "loss": ("loss {loss:.3f}", "손실 {loss:.3f}"),
    "whole": ("whole checkpoint: {whole_bytes}", "체크포인트 전체: {whole_bytes}"),
    "speed": ("{tokens_per_second:,.0f} tokens/s", "초당 {tokens_per_second:,.0f}토큰"),
    "status_line": (
        "{nickname} at {url}: {available:,} credits available, {held:,} held, {escrow:,} in escrow.",
        "{nickname} ({url}): 사용 가능 {available:,}크레딧, 사용 중 {held:,}, 보류 {escrow:,}.",
    ),
    "ledger_title": ("Latest movements:", "최근 내역:"),
    "ledger_empty": ("No movements yet.", "아직 내역이 없습니다."),
    "key_created": ("New key, shown this once: {api_key}", "새 키입니다. 지금 한 번만 표시됩니다: {api_key}"),
}


def sentence(language: str, key: str, **values: object) -> str:
    """The sentence `key` with its `values` filled in."""
    return _pick(SENTENCES[key], language).format(**values)


def reason_sentence(language: str, reason: str | None) -> str:
    """Why, in words; a code that this version does not know stays a code."""
    try:
        return _pick(REASONS[Reason(reason or "")], language)
    except ValueError:
        return reason or "?"


def state_word(language: str, state: DeviceState) -> str:
    return _pick(STATES[state], language)


def _pick(both: Both, language: str) -> str:
    return both[1] if language == "ko" else both[0]
