"""A record loop that fine-tunes SmolVLA: `python examples/record_loop.py` in simulation."""

import time

import residual_smolvla_ros as rl
from residual_smolvla_ros.arguments import DEMO_CHECKPOINT


def record_with_rl(robot, base, task, episodes=5, steps=900, fps=30, is_done=None, **settings):
    policy = rl.ResidualSmolVLAPolicy(base, max_steps=steps, **settings)
    trainer = rl.ResidualRLTrainer(policy, learning_rate=3e-4)
    reward_fn = rl.SimpleRewardFunction({"success": {"weight": 1.0}})
    robot.connect()
    for episode in range(episodes):
        policy.reset()
        observation, rewards = robot.get_observation(), []
        while len(rewards) < steps and sum(rewards) == 0:
            start = time.perf_counter()
            action = policy.predict_action(observation, task)
            robot.send_action(action)
            observation = robot.get_observation()
            success = is_done is not None and is_done(observation)
            rewards.append(reward_fn.compute_reward(observation, action, success))
            trainer.record_step(rewards[-1])
            time.sleep(max(0.0, 1 / fps - (time.perf_counter() - start)) if fps else 0.0)
        success = sum(rewards) > 0
        info = trainer.update_policy(None if success else observation, success)
        print(
            f"episode {episode + 1}: return {sum(rewards)}, loss {info.get('policy_loss', 0.0):.4f}"
        )
        if (episode + 1) % 5 == 0:
            print("saved", policy.save_residual_weights("outputs/record_loop"))
        input("Set the scene, then press Enter ") if fps else robot.reset(seed=episode + 1)
    robot.disconnect()


if __name__ == "__main__":
    record_with_rl(rl.SimulatedRobot(), DEMO_CHECKPOINT, "Lift the red cube", steps=100, fps=0)
