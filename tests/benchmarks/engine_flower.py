"""The job of `engine_speed.py` in Flower's simulation: FedAvg with every client in every round, digits, the same model and steps.

FLOWER_PYTHON tests/benchmarks/engine_flower.py CLIENTS ROUNDS
"""

import sys
from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from budjoule.training.task.data import load_data
from budjoule.training.task.models import build_model
from budjoule.training.task.partition import partition

CLIENTS, ROUNDS = int(sys.argv[1]), int(sys.argv[2])
STEPS, BATCH, RATE = 10, 16, 0.05


@cache
def shards() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The data and who holds which of them; once a process."""
    data = load_data("digits", 0)
    parts = partition("dirichlet:0.3", data.labels.numpy(), CLIENTS, 0)
    return data.inputs, data.labels, [torch.from_numpy(part) for part in parts]


def make_net() -> nn.Module:
    """The model that both engines train."""
    return build_model("mlp", shards()[0][:2], 10, 0)


client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """One local block, as budjoule runs it."""
    torch.set_num_threads(1)
    inputs, labels, parts = shards()
    own = parts[int(context.node_config["partition-id"])]
    net = make_net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    size = min(BATCH, len(own))
    order = torch.cat([own[torch.randperm(len(own))] for _ in range(-(-size * STEPS // len(own)))])
    for batch in order[: size * STEPS].view(STEPS, size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(own)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg over all clients, without evaluation on them."""
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(make_net().state_dict()), num_rounds=ROUNDS)


if __name__ == "__main__":
    run_simulation(server_app=server, client_app=client, num_supernodes=CLIENTS)
